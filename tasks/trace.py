"""A trace written by the task bodies themselves: evidence of who ran when that no coordinator has touched.

With ``COORDINATOR_TRACE_DIR`` set, each process appends one line of JSON to a file of its own when a body
begins, while it lives, and when it ends. Times are ``time.monotonic()``: one clock for the whole
machine, which no clock adjustment can turn back. A folder belongs to one boot of one machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALIVE_EVERY = 0.2


class Trace:
    """The trace of one run of a task body; without a folder it writes nothing."""

    def __init__(self, folder: Path | None, about: dict[str, Any]) -> None:
        self._folder, self._about, self._written = folder, about, 0.0

    def write(self, what: str) -> None:
        """Append one line: ``start``, ``alive`` or ``end``."""
        if self._folder is None:
            return
        self._written = time.monotonic()
        line = {"event": what, "at": self._written, **self._about}
        # One write to a file opened for appending, so that a kill leaves whole lines only.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._folder / f"{os.getpid()}.jsonl", flags, 0o644)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)

    def alive(self) -> None:
        """Note that this run is still at work, a few times a second at most."""
        if self._folder is not None and time.monotonic() - self._written >= ALIVE_EVERY:
            self.write("alive")


@contextmanager
def traced(task: str, models: Sequence[str], job_id: str, token: int | None) -> Iterator[Trace]:
    """Trace the run of a task body.

    Args:
        task: its name.
        models: what it must have for itself.
        job_id, token: of the job.
    """
    name = os.environ.get("COORDINATOR_TRACE_DIR")
    folder = Path(name) if name else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    trace = Trace(
        folder,
        {"job": job_id, "models": list(models), "task": task, "token": token, "pid": os.getpid()},
    )
    trace.write("start")
    try:
        yield trace
    finally:
        trace.write("end")


@dataclass(slots=True)
class TracedRun:
    """One run found in a trace.

    Attributes:
        job_id, token, pid, task, models: who ran.
        start: when it began (monotonic seconds).
        seen: when it was last known to be alive: its end, or the last line before it was killed.
        ended: whether its end was written.
    """

    job_id: str
    token: int | None
    pid: int
    task: str
    models: tuple[str, ...]
    start: float
    seen: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two runs that had one model at once."""

    model: str
    first: TracedRun
    second: TracedRun

    def __str__(self) -> str:
        seconds = min(self.first.seen, self.second.seen) - self.second.start
        return (
            f"{self.model}: {self.first.task} {self.first.job_id} (pid {self.first.pid}) was alive "
            f"{max(seconds, 0):.3f} s after {self.second.task} {self.second.job_id} "
            f"(pid {self.second.pid}) had started"
        )


def read_runs(trace_dir: Path | str) -> list[TracedRun]:
    """Return all runs in a folder, in the order in which they began.

    Raises:
        ValueError: a line that is no JSON, or one without its start.
    """
    runs: list[TracedRun] = []
    for path in sorted(Path(trace_dir).glob("*.jsonl")):
        under_way: dict[tuple[str, int | None], TracedRun] = {}
        for line in path.read_text().splitlines():
            item = json.loads(line)
            key = (item["job"], item["token"])
            if item["event"] == "start":
                run = TracedRun(
                    item["job"],
                    item["token"],
                    item["pid"],
                    item["task"],
                    tuple(item["models"]),
                    item["at"],
                    item["at"],
                )
                under_way[key] = run
                runs.append(run)
            elif key in under_way:
                under_way[key].seen = item["at"]
                under_way[key].ended = item["event"] == "end"
            else:
                raise ValueError(f"{path}: {item['event']} of job {item['job']} without a start")
    return sorted(runs, key=lambda run: run.start)


def overlaps(trace_dir: Path | str) -> list[Overlap]:
    """Return every pair of runs that had one model at the same time.

    A run without an end was killed at an unknown moment: it counts as alive only up to the last line it
    wrote, so a pair is reported only if a line proves it. Models with a limit above one are not
    what this is for.

    Args:
        trace_dir: the folder that ``COORDINATOR_TRACE_DIR`` named.
    """
    by_model: dict[str, list[TracedRun]] = {}
    for run in read_runs(trace_dir):
        for model in run.models:
            by_model.setdefault(model, []).append(run)
    found = []
    for model, runs in sorted(by_model.items()):
        open_runs: list[TracedRun] = []
        for run in runs:
            open_runs = [earlier for earlier in open_runs if earlier.seen > run.start]
            found += [Overlap(model, earlier, run) for earlier in open_runs]
            open_runs.append(run)
    return found


def main(trace_dir: str) -> int:
    """Print what the trace in ``trace_dir`` shows; return 1 if two runs of one model overlapped."""
    runs, found = read_runs(trace_dir), overlaps(trace_dir)
    killed = sum(not run.ended for run in runs)
    jobs = len({run.job_id for run in runs})
    lines = [str(overlap) for overlap in found]
    lines.append(f"{len(runs)} runs of {jobs} jobs, {killed} without an end, {len(found)} overlaps")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

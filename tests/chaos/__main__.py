"""``python -m tests.chaos``: run the drills, print a table with exact counts, exit 1 on a loss or an overlap."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.chaos.cluster import Cluster
from tests.chaos.drills import DRILLS, Drill
from tests.chaos.traces import Counts

COLUMNS = ("accepted", "completed", "lost", "overlaps", "<1 s", "untold", "other", "killed")


@dataclass
class Outcome:
    """What came of one repetition.

    Attributes:
        drill, seed: what was repeated.
        counts: by the traces; None when it did not come so far.
        seconds: how long it took, with the start of a cluster where one was needed.
        remark, error: of the drill.
        skipped: why it cannot be run here, or "".
    """

    drill: str
    seed: int
    counts: Counts | None = None
    seconds: float = 0.0
    remark: str = ""
    error: str = ""
    skipped: str = ""

    @property
    def good(self) -> bool:
        if self.skipped:
            return True
        return not self.error and self.counts is not None and self.counts.good

    def numbers(self) -> tuple[int, ...] | None:
        """Return the columns of the table."""
        counts = self.counts
        if counts is None:
            return None
        return (
            counts.accepted,
            counts.completed,
            len(counts.lost),
            len(counts.overlaps),
            len(counts.recent),
            len(counts.untold),
            len(counts.twice),
            counts.killed,
        )


class Stage:
    """Runs repetitions one after another, on the same cluster as long as it is healthy and fits.

    Args:
        folder: takes a folder for each cluster.
        keep: takes logs and traces of what failed, or None.
        fresh: whether each repetition gets a cluster of its own.
    """

    def __init__(self, folder: Path, keep: Path | None = None, fresh: bool = False) -> None:
        self.folder, self.keep, self.fresh = folder, keep, fresh
        self._cluster: Cluster | None = None
        self._options: dict[str, Any] = {}
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def run(self, drill: Drill, seed: int) -> Outcome:
        """Run one drill once."""
        outcome = Outcome(drill.name, seed, skipped=drill.skip())
        if outcome.skipped:
            return outcome
        began = time.monotonic()
        try:
            self._perform(drill, outcome)
        except Exception as problem:  # noqa: BLE001 - becomes a line of the table; the next drill goes on
            outcome.error = "".join(traceback.format_exception_only(problem)).strip()
            traceback.print_exc(file=sys.stderr)
        if self.keep and not outcome.good and self._cluster is not None:
            target = self.keep / f"{drill.name}-{seed}"
            shutil.copytree(self._cluster.folder, target, dirs_exist_ok=True)
        if not outcome.good or self.fresh or not drill.reusable:
            self._leave()
        outcome.seconds = time.monotonic() - began
        return outcome

    def _perform(self, drill: Drill, outcome: Outcome) -> None:
        cluster = self._ready(drill)
        outcome.remark = drill.strike(cluster, random.Random(outcome.seed)) or ""
        outcome.counts = cluster.settle()
        if outcome.counts.good:
            cluster.verify()
            outcome.counts = cluster.count()
        hit = outcome.counts.killed or not drill.runs_killed
        assert hit, "no run was hit: the drill proved nothing"

    def _ready(self, drill: Drill) -> Cluster:
        if self._cluster is not None and self._options == drill.options:
            try:
                self._cluster.reset()
            except AssertionError as problem:
                say(f"    another cluster: {problem}")
            else:
                return self._cluster
        self._leave()
        self._number += 1
        cluster = Cluster(self.folder / str(self._number), **drill.options)
        cluster.__enter__()
        self._cluster, self._options = cluster, drill.options
        return cluster

    def _leave(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.end()
            shutil.rmtree(cluster.folder, ignore_errors=True)


def line(outcome: Outcome) -> str:
    """Return an outcome as a line of the table."""
    numbers = outcome.numbers() or ("-",) * len(COLUMNS)
    cells = _cells((outcome.drill, outcome.seed, *numbers, f"{outcome.seconds:.0f}"))
    return cells + f"  {outcome.error[:300] or outcome.skipped or outcome.remark}"


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Return for each drill the sums of its repetitions and, below them, the worst of each column."""
    lines = []
    for name in dict.fromkeys(outcome.drill for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.drill == name]
        numbers = [found for outcome in mine if (found := outcome.numbers()) is not None]
        good = sum(outcome.good for outcome in mine)
        if not numbers:
            lines.append(_cells((name, f"{good}/{len(mine)}", *("-",) * len(COLUMNS), "-")))
            continue
        columns = list(zip(*numbers, strict=True))
        seconds = [outcome.seconds for outcome in mine]
        mean = f"{sum(seconds) / len(seconds):.1f}"
        lines.append(_cells((name, f"{good}/{len(mine)}", *map(sum, columns), mean)))
        worst = (min(columns[0]), min(columns[1]), *map(max, columns[2:]))
        lines.append(_cells(("", "worst", *worst, f"{max(seconds):.1f}")))
    return lines


def _cells(cells: tuple[object, ...]) -> str:
    first, *rest = cells
    return f"{first!s:<26}" + "".join(f"{cell!s:>10}" for cell in rest)


def say(text: str) -> None:
    """Print a line at once: a drill takes its time."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell(outcome: Outcome) -> None:
    """Print an outcome, and each thing that went wrong in it."""
    say(line(outcome))
    if outcome.counts is not None:
        counts = outcome.counts
        for problem in (*counts.lost, *counts.twice, *counts.overlaps):
            say(f"    {problem}")


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--drill", action="append", choices=sorted(DRILLS), default=[])
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first repetition")
    parser.add_argument("--keep", type=Path, help="folder that keeps logs and traces of failures")
    parser.add_argument("--fresh", action="store_true", help="a new cluster for each repetition")
    parser.add_argument("--beside", type=int, default=1, metavar="N", help="drills at a time")
    options = parser.parse_args()
    names = options.drill or list(DRILLS)
    # Those that can share a cluster one after the other.
    names.sort(key=lambda name: repr(DRILLS[name].options))
    seeds = range(options.seed, options.seed + options.repeat)
    began = time.monotonic()
    say(_cells(("drill", "seed", *COLUMNS, "s")))

    def share(index: int) -> list[Outcome]:
        found = []
        with (
            tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder,
            Stage(Path(folder), options.keep, options.fresh) as stage,
        ):
            for name in names[index :: options.beside]:
                for seed in seeds:
                    found.append(stage.run(DRILLS[name], seed))
                    tell(found[-1])
        return found

    with ThreadPoolExecutor(options.beside) as threads:
        outcomes = [one for found in threads.map(share, range(options.beside)) for one in found]
    say("")
    say(_cells(("sums", "good", *COLUMNS, "s each")))
    for text in summary(outcomes):
        say(text)
    bad = [outcome for outcome in outcomes if not outcome.good]
    skipped = sum(bool(outcome.skipped) for outcome in outcomes)
    say(
        f"{len(outcomes) - len(bad) - skipped} of {len(outcomes)} repetitions without a loss, an overlap, "
        f"another second run or a failure; {skipped} skipped; {time.monotonic() - began:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

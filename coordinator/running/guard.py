"""The guard: a process beside each worker that ends the worker's jobs before its lease does.

It runs in a session of its own, so that whatever stops the worker's group does not stop it. The worker
tells it, after each renewal, until when its lease is good. When that moment passes without news (Redis is
gone, the network is cut, the worker's main process is stopped or busy), or when the worker's main process is
gone, the guard kills the jobs and all they started. A process whose job's body is over, and that has only to
tell it, is let live: killed, the job would run again although it has ended.

Which processes these are it sees for itself, all the time: what the main process could tell it would be
missing those of the last moment, and the children of the dead have other parents.

Started as ``python -m coordinator.running.guard <mode> <pid>``; mode ``children`` kills the job processes, mode
``worker`` (pools that cannot kill a job) the worker itself. One line of JSON per renewal on standard
input: {"until": seconds on CLOCK_MONOTONIC}, and a last one with {"over": true} when the worker ends in order.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from coordinator import telling
from coordinator.family import WORKER_MARK, Member, end, member, offspring

#: Seconds between two looks at what the worker has started, and at those that are telling an end: what these begin
#: next nobody else would end.
LOOK, LOOK_TELLING = 0.5, 0.25


class Guard:
    """Follows one worker.

    Args:
        mode: ``children`` or ``worker``.
        worker: its main process.
    """

    def __init__(self, mode: str, worker: int) -> None:
        self.mode, self.worker = mode, worker
        self.main = member(worker)
        self.seen: dict[int, Member] = {}
        #: Those that were spared since they only had to tell an end.
        self.telling: dict[int, Member] = {}
        name = os.environ.get(WORKER_MARK)
        self.marker = f"{WORKER_MARK}={name}" if name else ""

    def look(self) -> None:
        """Remember what descends from the main process; forget what is dead."""
        self.seen = {pid: item for pid, item in self.seen.items() if _same(item) or _left(pid)}
        group = self.main.group if self.main else 0
        for item in offspring(self.worker):
            # What shares the main process's group is no job process: each of these has its own.
            if item.pid != os.getpid() and item.group != group:
                self.seen[item.pid] = item

    def strike(self) -> None:
        """End the jobs, or the worker with them; not those that have ended and are telling it."""
        self.look()
        known = list(self.seen.values())
        if self.mode == "children" and member(self.worker) is not None:
            self.telling = {item.pid: item for item in known if _tells(item)}
        if self.mode == "worker" and self.main is not None:
            known.append(self.main)
        if not end(known, self.marker, self._spared()):
            _say(f"guard of worker {self.worker}: some of its jobs' processes cannot be killed")

    def _spared(self) -> set[int]:
        # Found by the marker: the main process when it is what a job of another worker started.
        return {self.worker, *self.telling} if self.mode == "children" else set()

    def follow(self) -> None:
        """End those that were spared and have told: what they would begin now nobody would end."""
        told = {pid: item for pid, item in self.telling.items() if not _tells(item)}
        for pid in told:
            del self.telling[pid]
        if told:
            end(told.values(), "", self._spared())

    def watch(self) -> None:
        """Follow the worker until it is gone."""
        until: float | None = None
        buffer = b""
        stdin = sys.stdin.fileno()
        while True:
            self.look()
            left = LOOK_TELLING if self.telling else LOOK
            if until is not None:
                left = min(left, until - time.monotonic())
            ready, _, _ = select.select([stdin], [], [], max(0.0, left))
            if ready:
                chunk = os.read(stdin, 65536)
                if not chunk:
                    self.strike()
                    return
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                if lines:
                    told = json.loads(lines[-1])
                    until = told["until"]
                    if told.get("over"):
                        # The worker ends by itself; only what its jobs left behind is ended with it.
                        self.mode = "children"
                    self.telling.clear()
            elif until is not None and time.monotonic() >= until:
                _say(f"guard of worker {self.worker}: its lease is over, ending its jobs")
                self.strike()
                until = None
            elif self.telling:
                self.follow()
            elif member(self.worker) is None:
                # A process that a job forked may keep the other end of the pipe open.
                self.strike()
                return


def _same(item: Member) -> bool:
    now = member(item.pid)
    return now is not None and now.started == item.started


def _tells(item: Member) -> bool:
    now = member(item.pid)
    return now is not None and now.started == item.started and now.name == telling.NAME


def _left(pid: int) -> bool:
    """Whether a dead process has left others in its group behind."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _say(text: str) -> None:
    sys.stderr.write(f"[COORDINATOR] {text}\n")
    sys.stderr.flush()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Guard(sys.argv[1], int(sys.argv[2])).watch()


if __name__ == "__main__":
    main()

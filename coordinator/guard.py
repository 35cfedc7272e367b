"""The guard: a process beside each worker that ends the worker's jobs before its lease does.

It runs in a session of its own, so that whatever stops the worker's group does not stop it. The worker
tells it, after each renewal, until when its lease is good and which processes run its jobs. When that
moment passes without news (Redis is gone, the network is cut, the worker's main process is stopped or
busy), or when the worker's main process is gone, the guard kills the jobs and all they started.

Started as ``python -m coordinator.guard <mode> <pid>``; mode ``children`` kills the job processes, mode
``worker`` (pools that cannot kill a job) the worker itself. One line of JSON per renewal on standard
input: {"until": seconds on CLOCK_MONOTONIC, "pids": [...]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path


def descendants(roots: set[int]) -> set[int]:
    """Return the processes among ``roots`` and all that descend from them, by /proc."""
    parents: dict[int, int] = {}
    groups: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)], groups[int(entry.name)] = int(fields[1]), int(fields[2])
    found = {pid for pid in parents if pid in roots or groups[pid] in roots}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        if not more:
            return found
        found |= more


def kill(roots: set[int]) -> None:
    """Kill processes and everything they started, until none is left."""
    own = os.getpid()
    deadline = time.monotonic() + 2
    while True:
        found = descendants(roots) - {own}
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found or time.monotonic() > deadline:
            return
        # A process that was just killed may have forked a moment before: look again.
        select.select([], [], [], 0.02)


def watch(mode: str, worker: int) -> None:
    """Follow one worker until it is gone."""
    until: float | None = None
    pids: set[int] = set()
    buffer = b""
    stdin = sys.stdin.fileno()
    while True:
        timeout = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([stdin], [], [], timeout)
        if ready:
            chunk = os.read(stdin, 65536)
            if not chunk:
                kill(pids)
                return
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            if lines:
                news = json.loads(lines[-1])
                until, pids = news["until"], set(news["pids"])
        elif until is not None:
            sys.stderr.write(
                f"[COORDINATOR] guard of worker {worker}: its lease is over, ending its jobs\n"
            )
            sys.stderr.flush()
            kill({worker} if mode == "worker" else pids)
            until = None


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    main()

"""The line to the guard, which ends a worker's jobs when its lease is over; see ``coordinator.running.guard``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from typing import IO, cast

logger = logging.getLogger("coordinator")


class GuardLine:
    """Starts the guard, tells it how long the lease is good, and ends it.

    Args:
        mode: ``children`` when the pool runs jobs in processes, else ``worker``.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> IO[bytes]:
        """Start the process; returns what it reads."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coordinator.running.guard", self.mode, str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return cast("IO[bytes]", self.process.stdin)

    def tell(self, until: float | None, over: bool = False) -> None:
        """Say until when the lease is good, None when no job can run, and whether the worker ends in order."""
        line = json.dumps({"until": until, "over": over}).encode() + b"\n"
        try:
            process = self.process
            alive = process is not None and process.poll() is None
            pipe = process.stdin if process is not None and alive else self.start()
            if pipe is not None:
                pipe.write(line)
                pipe.flush()
        except (BrokenPipeError, OSError) as error:
            logger.error("[COORDINATOR] the guard does not answer, starting another: %s", error)
            self.process = None

    def stop(self) -> None:
        """End the guard; the pool is stopped, so there is nothing left to guard."""
        if self.process is not None and self.process.stdin is not None:
            self.tell(None, over=True)
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.wait(timeout=5)

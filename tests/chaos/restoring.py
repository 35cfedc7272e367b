"""A process that wipes Redis, restores the ledger, and is killed or frozen in the middle of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from coordinator.recovery.restorer import TERM_MS
from tests.chaos.app import app


def main() -> None:
    """``kill`` or ``freeze`` before the first page of jobs; says on standard output whether it restored."""
    number = signal.SIGKILL if sys.argv[1] == "kill" else signal.SIGSTOP
    work_queue = app.coordination.work_queue
    ledger, store = work_queue.ledger, work_queue.store
    assert work_queue.ensure_open()
    count = store.count_unfinished

    def caught() -> Any:
        os.kill(os.getpid(), number)
        return count()

    store.count_unfinished = caught
    # In one step with the wipe, so that nobody else is quicker: this is the one that restores.
    holder = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    sys.stdout.write(f"wiped: {time.monotonic()}\n")
    with ledger.redis.pipeline() as wipe:
        wipe.flushall().set("coordinator:leader:restore", holder, px=TERM_MS).execute()
    sys.stdout.write(f"restored: {work_queue.ensure_open()}\n")


if __name__ == "__main__":
    main()

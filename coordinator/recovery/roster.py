"""The roster: who works here, kept in the store, so that a restore knows exactly whom to wait for."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from coordinator.errors import CoordinatorError
from coordinator.jobs import Event
from coordinator.recovery.restorer import FRESH_MS

if TYPE_CHECKING:
    from coordinator.ledger import Ledger
    from coordinator.store import Store

logger = logging.getLogger("coordinator")

#: Seconds between two times that all workers are kept; well below ``FRESH_MS``.
KEEP_SECONDS = 4.0

#: Seconds for which a worker that cannot enrol waits before it takes work: longer than the store is trusted
#: to know all workers. So a restore waits for a lease whenever there may be one that it does not know.
ALONE_SECONDS = FRESH_MS / 1000 + 3

#: Seconds between two tries to enrol, growing while the database is down: each costs a process.
AGAIN_LEAST, AGAIN_MOST = 1.0, 15.0

#: A worker has enrolled and not registered yet for at most so many milliseconds, or a lease.
ARRIVING_MS = 10_000


@cache
def versions() -> dict[str, str]:
    """Return the versions of what a worker runs on, by name; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in ("celery-coordinator", "celery", "kombu", "redis"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Roster:
    """Keeps the store's table of workers; used by the elected recorder.

    Args:
        ledger, store: of this installation.
    """

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self.ledger, self.store = ledger, store
        self._kept_at = 0.0
        #: Live rows whose end nobody told, found since this process began.
        self.lost = 0

    def note(self, events: Sequence[Event]) -> None:
        """Note who came and went; before the events are settled, so that none is missed."""
        self.store.note_workers(events)

    def tick(self) -> bool:
        """Keep all workers if it is time again; return whether that was done.

        Raises:
            LedgerUnavailable, StoreUnavailable: not now; the table is not trusted when it gets too old.
        """
        now = time.monotonic()
        if self._kept_at and now - self._kept_at < KEEP_SECONDS:
            return False
        epoch = self.ledger.epoch()
        if epoch is None or self.ledger.restoring() is not None:
            # Those that have not reported yet are live all the same.
            return False
        at_ms = self.ledger.clock()
        reports = self.ledger.workers()
        if self.ledger.epoch() != epoch:
            return False
        silent_ms = max(ARRIVING_MS, 2 * self.ledger.lease_ms())
        lost = self.store.keep_workers(reports, epoch, at_ms, silent_ms)
        if lost:
            logger.warning("[COORDINATOR] %d workers had gone without a word", lost)
        self.lost += lost
        self.store.heartbeats({report["id"]: int(report.get("seen") or 0) for report in reports})
        self._kept_at = now
        return True


class Enrolment(threading.Thread):
    """Enrols a worker, in a thread of its own: a database that is down must not delay its renewals.

    Args:
        enrol: writes the worker's row.
        configure: brings its settings to the ledger, if that was closed or away when the worker started.
    """

    def __init__(
        self, enrol: Callable[[], None], configure: Callable[[], None] | None = None
    ) -> None:
        super().__init__(name="coordinator-enrolment", daemon=True)
        self.enrol, self.configure = enrol, configure
        self.enrolled = False
        self._alone_at = time.monotonic() + ALONE_SECONDS
        self._over = threading.Event()

    @property
    def may_fetch(self) -> bool:
        """Whether the worker may take work: it is known, or a restore would wait for anybody by now."""
        return self.enrolled or time.monotonic() >= self._alone_at

    def run(self) -> None:
        alone = f"not enrolled, takes work in {ALONE_SECONDS:.0f} s at the latest"
        self.enrolled = self._done(self.enrol, alone)
        if self.enrolled and self.configure is not None:
            self._done(self.configure, "the settings of this worker are not in the ledger yet")

    def _done(self, do: Callable[[], None], trouble: str) -> bool:
        """Try until it is done; False when the worker stops before."""
        told, pause = False, AGAIN_LEAST
        while not self._over.is_set():
            try:
                do()
            except CoordinatorError as error:
                if not told:
                    logger.warning("[COORDINATOR] %s: %s", trouble, error)
                told = True
                self._over.wait(pause)
                pause = min(2 * pause, AGAIN_MOST)
            else:
                return True
        return False

    def stop(self) -> None:
        """End the thread."""
        self._over.set()

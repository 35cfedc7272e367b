"""Waiting until the store knows what the ledger did, for those who want to look at it or to rely on it."""

from __future__ import annotations

import logging
import threading
import time

from coordinator.errors import CoordinatorError, LedgerClosed
from coordinator.identity import holder
from coordinator.jobs import event_order
from coordinator.recovery.recorder import NAME
from coordinator.recovery.records import Records

logger = logging.getLogger("coordinator")

#: Seconds between two looks.
LOOK = 0.02


class CatchingUp(Records):
    """Brings what has happened to the store before somebody goes on."""

    def catch_up(self, seconds: float = 3.0) -> bool:
        """Wait until everything that has happened so far is in the store.

        A worker records it as a rule. Where none lives it is recorded here, so that what an operator did while
        nothing runs outlives a restart of Redis too.

        Args:
            seconds: to wait at most.

        Returns:
            Whether it is there. False is no loss: the events stay in the ledger until they are recorded.
        """
        try:
            return self._catch_up(seconds)
        except CoordinatorError as error:
            # What was asked for is done; that a ledger or a database is away is told by the next verb.
            logger.debug("[COORDINATOR] not recorded yet: %s", error)
            return False

    def _catch_up(self, seconds: float) -> bool:
        _, last = self.ledger.last_event()
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not self._recorded(last):
            if time.monotonic() > deadline:
                return False
            if self.application is not None and self.ledger.leader(NAME) is None:
                recorder = self.application.recorder(holder())
                try:
                    recorder.tick()
                finally:
                    recorder.resign()
            else:
                pause.wait(LOOK)
        return True

    def _recorded(self, last: str) -> bool:
        oldest = self.ledger.oldest_event()
        return not last or oldest is None or event_order(oldest) > event_order(last)

    def built_epoch(self) -> int:
        """Return the present epoch of a ledger that is built.

        Who judges by what is not there asks before and after: in a ledger that was wiped, nothing is.

        Raises:
            LedgerClosed: it has none, or is being built again.
            LedgerUnavailable: not now.
        """
        epoch = self.ledger.epoch()
        if epoch is None:
            raise LedgerClosed("the ledger is being restored: try again in a few seconds")
        return epoch

    def wait_until_open(self) -> None:
        """Restore the ledger if Redis has forgotten it, or wait until somebody else has.

        Raises:
            LedgerClosed: it is still being restored.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        deadline, pause = time.monotonic() + self.ledger.patience, threading.Event()
        while not self.ensure_open():
            if time.monotonic() > deadline:
                raise LedgerClosed("the ledger is being restored: try again in a few seconds")
            pause.wait(0.05)

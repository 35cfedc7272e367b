"""A worker that answers ping but takes nothing: messages wait for it, it has free slots, and none arrives."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("coordinator")

#: Seconds after which a worker that takes nothing is called idle.
IDLE_SECONDS = 10.0


class Idleness:
    """Watches one worker from its own renewal, which goes on when its consumer does not.

    Args:
        worker: its id.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._received, self._since = -1, 0.0
        self._told = False

    def look(self, unfetched: int, free: int, received: int) -> float:
        """Return for how many seconds the worker has taken nothing although it should have.

        Args:
            unfetched: messages in its queues that nobody has fetched.
            free: its free slots.
            received: messages it has taken since its start.
        """
        if not unfetched or free <= 0 or received != self._received:
            self._received, self._since = received, time.monotonic()
            if self._told:
                logger.warning("[COORDINATOR] worker %s takes messages again", self.worker)
            self._told = False
            return 0.0
        seconds = time.monotonic() - self._since
        if seconds >= IDLE_SECONDS and not self._told:
            self._told = True
            logger.error(
                "[COORDINATOR] worker %s takes nothing: %d messages have waited for its %d free slots for %.0f s",
                self.worker,
                unfetched,
                free,
                seconds,
            )
        return seconds if seconds >= IDLE_SECONDS else 0.0

"""Clocks: Redis's is the one that counts; what another machine's clock says is brought to it."""

from __future__ import annotations

import dataclasses
import time

from coordinator.errors import LedgerUnavailable
from coordinator.jobs import Job
from coordinator.ledger.scripts import Scripts

#: Milliseconds by which clocks may differ before it matters; asking takes a while, too.
TOLERANCE_MS = 2000

#: Seconds for which a measured difference is used.
MEASURE_SECONDS = 30.0


class Clocks(Scripts):
    """Redis's clock, and how far this machine's is off."""

    _measured_at = 0.0
    _ahead_ms = 0

    def clock(self) -> int:
        """Return Redis's clock, Unix milliseconds: the one clock that all processes share.

        Raises:
            LedgerUnavailable: Redis was not reached.
        """
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def by_redis(self, job: Job) -> Job:
        """Return a job whose due and expiry times, by this machine's clock, are by Redis's.

        A retry in four seconds, published by a worker whose clock is an hour ahead, would else wait for an hour.
        """
        if not (job.due_ms or job.expires_ms):
            return job
        ahead = self._ahead()
        if not ahead:
            return job
        return dataclasses.replace(
            job,
            due_ms=max(1, job.due_ms - ahead) if job.due_ms else 0,
            expires_ms=max(1, job.expires_ms - ahead) if job.expires_ms else 0,
        )

    def _ahead(self) -> int:
        now = time.monotonic()
        if not self._measured_at or now - self._measured_at > MEASURE_SECONDS:
            try:
                ahead = time.time_ns() // 1_000_000 - self.clock()
            except LedgerUnavailable:
                # The operation itself waits for Redis; the clocks are as they were.
                return self._ahead_ms
            self._ahead_ms = ahead if abs(ahead) > TOLERANCE_MS else 0
            self._measured_at = now
        return self._ahead_ms

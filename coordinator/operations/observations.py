"""What observe-only mode has found, for whoever asks."""

from __future__ import annotations

from coordinator.embedded import redis_url
from coordinator.observing import Conflicts, Marks
from coordinator.recovery.records import Records

#: Seconds that somebody who asks waits for Redis.
PATIENCE = 5.0


class Observations(Records):
    """Tells what was observed; needs no ledger and no database."""

    def get_conflicts(self) -> Conflicts:
        """Return which runs would have waited for a model, as seen with ``coordinator_mode`` observe.

        Raises:
            LedgerUnavailable: Redis is away.
        """
        return self._marks().conflicts()

    def clear_conflicts(self) -> None:
        """Forget what was observed, to begin anew.

        Raises:
            LedgerUnavailable: Redis is away.
        """
        self._marks().clear()

    def _marks(self) -> Marks:
        return Marks(redis_url(self.settings), self.settings.key_prefix, PATIENCE)

"""Workers listed and forgotten."""

from __future__ import annotations

import logging

from coordinator.author import default_author
from coordinator.errors import InvalidValue, StoreUnavailable
from coordinator.operations.holds import Holds
from coordinator.workers.records import WorkerRecord, gone, live

logger = logging.getLogger("coordinator")


class WorkerListing(Holds):
    """The verbs about workers that are there, and those that were."""

    def get_workers(self, inactive: bool = True) -> list[WorkerRecord]:
        """Return the workers, by name: live ones, and those that are gone and not forgotten.

        Args:
            inactive: whether those that are gone are told of, too.

        Raises:
            LedgerUnavailable: not now. With the database away live workers are told of alone.
        """
        now = self.ledger.clock()
        try:
            stored = {one.worker: one for one in self.store.workers()}
        except StoreUnavailable as error:
            logger.warning("[COORDINATOR] live workers alone: %s", error)
            stored = {}
        found = [live(one, stored.get(one["id"]), now) for one in self.ledger.workers()]
        known = {one.id for one in found}
        if inactive:
            found += [gone(one, now) for one in stored.values() if one.worker not in known]
        return sorted(found, key=lambda one: (one.node, -one.last_heartbeat, one.id))

    def clear_inactive_workers(
        self,
        threshold_seconds: float = 0.0,
        *,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Forget workers that are gone; what they have done stays in the log.

        Args:
            threshold_seconds: only those without a heartbeat for so long.
            reason, by: kept in the log.
            dry_run: whether only to count.

        Returns:
            Their number.

        Raises:
            InvalidValue: a negative time.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        if not threshold_seconds >= 0:
            raise InvalidValue("threshold_seconds", threshold_seconds, "a number of seconds from 0")
        self.catch_up()
        now = self.ledger.clock()
        inactive = self.store.inactive_workers(threshold_seconds, now)
        if dry_run or not inactive:
            return len(inactive)
        number = self.store.forget_workers(threshold_seconds, now)
        nodes = [one.node for one in inactive][:100]
        author = by or default_author()
        self.store.note(
            "workers_forgotten", author, reason, data={"workers": nodes, "number": number}
        )
        return number

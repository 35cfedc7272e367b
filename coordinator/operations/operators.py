"""What operators set: limits, and how long the store remembers. Each action is audited with who and why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coordinator.author import default_author
from coordinator.breaker import Breakers
from coordinator.errors import StoreUnavailable
from coordinator.operations.bulk import BulkVerbs
from coordinator.operations.shares import Shares
from coordinator.resources import check_limit, check_name, check_resource
from coordinator.workers import Workers

if TYPE_CHECKING:
    from coordinator.store import Pruned

logger = logging.getLogger("coordinator")


class Operators(BulkVerbs, Shares, Breakers, Workers):
    """The operators' verbs of the work queue."""

    def limit(
        self,
        resource: str,
        value: int | None,
        *,
        reason: str = "",
        by: str | None = None,
        until_ms: int = 0,
    ) -> None:
        """Set the limit of a resource, or reset it to the configured one with None.

        Args:
            resource: such as ``model:ranker`` or ``queue:training``.
            value: its units from now on.
            reason, by: kept in the log.
            until_ms: when it ends by itself (Unix milliseconds); 0 is never. The limit that was set for good, if
                any, holds again then. With None as value, any moment resets the temporary limit alone.

        Raises:
            InvalidValue: no resource, or no limit.
        """
        check_resource("resource", resource)
        if value is not None:
            check_limit("limit", value)
        check_limit("until_ms", until_ms)
        self.ledger.limit(resource, value, by or default_author(), reason, until_ms)

    def weigh(
        self, org: str, weight: int | None, *, reason: str = "", by: str | None = None
    ) -> None:
        """Set the weight of an org's turns, or reset it to the configured one with None.

        Args:
            org: the organisation.
            weight: of two orgs that both wait, one of weight 2 starts twice as many jobs as one of weight 1.
            reason, by: kept in the log.

        Raises:
            InvalidValue: no name, or no weight.
        """
        check_name("org", org)
        if weight is not None:
            check_limit("weight", weight, least=1)
        self.ledger.weigh(org, weight, by or default_author(), reason)

    def prune(
        self,
        log_days: float | None = None,
        finished_days: float | None = None,
        *,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove old events and old finished jobs from the store, in small batches.

        Args:
            log_days, finished_days: ages; by default those of the settings.
            reason, by: kept in the log.
            dry_run: whether only to count.

        Raises:
            InvalidValue: a negative age.
            StoreUnavailable: not now.
        """
        settings = self.settings
        return self.store.prune(
            settings.log_days if log_days is None else log_days,
            settings.finished_days if finished_days is None else finished_days,
            by=by or default_author(),
            reason=reason,
            dry_run=dry_run,
        )

    def note_request(self, job_id: str, by: str) -> None:
        """Note who asked for a job that was sent as a message, which does not say it.

        Args:
            job_id: the job, accepted before.
            by: for the log.
        """
        try:
            self.store.note("requested", by, job_id=job_id)
        except StoreUnavailable as error:
            # With durability redis it is accepted nevertheless.
            logger.warning("[COORDINATOR] job %s requested by %s: %s", job_id, by, error)

"""Fair shares: what each org uses of each queue, and the limits that keep them fair."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coordinator.author import default_author
from coordinator.errors import InvalidValue
from coordinator.operations.holds import Holds
from coordinator.resources import (
    ORG,
    check_limit,
    check_name,
    check_resource,
    org_resource,
    queue_resource,
)


@dataclass(frozen=True, slots=True)
class OrgShare:
    """What an org has of a queue.

    Attributes:
        org, queue: of whom, of what.
        running: its jobs there that run, or are on their way to a worker.
        waiting: its jobs there that wait, whatever for.
        percent: share of the queue's limit that its running jobs use, None when that has none.
        limit: jobs it may run there at once, None for as many as there are slots.
        source: ``override`` (until a time), ``operator`` or ``configuration``; "" without a limit.
        until: when an override ends, Unix seconds, else None.
        weight: its turns against others' with one.
    """

    org: str
    queue: str
    running: int
    waiting: int
    percent: float | None
    limit: int | None
    source: str
    until: float | None
    weight: int


@dataclass(frozen=True, slots=True)
class LimitReset:
    """The limits that were reset, or would be.

    Attributes:
        resources: what they are limits of.
        dry_run: whether it is a preview.
    """

    resources: tuple[str, ...]
    dry_run: bool


class Shares(Holds):
    """The verbs of fair shares."""

    def get_org_usage(self, org: str | None = None, queue: str | None = None) -> list[OrgShare]:
        """Return what orgs use of queues, by queue and org; those with jobs or with a limit of their own.

        Args:
            org, queue: only of these.

        Raises:
            InvalidValue: no such queue, or a name that cannot be one.
            LedgerUnavailable: not now.
        """
        wanted = None if queue is None else self.check_queue(queue)
        if org is not None:
            check_name("org", org)
        used, awaited = self.ledger.used(), self.ledger.awaited(ORG)
        names = sorted({*used, *awaited, *self.ledger.limited(ORG)})
        parts = {name: name.removeprefix(f"{ORG}:").partition("/") for name in names}
        chosen = [
            name
            for name, (of, _, whose) in parts.items()
            if wanted in (None, of) and org in (None, whose)
        ]
        queues = sorted({queue_resource(parts[name][0]) for name in chosen})
        limits, weights = self.ledger.limits([*chosen, *queues]), self.ledger.weights()
        found = []
        for name in chosen:
            of, _, whose = parts[name]
            running, limit = used.get(name, 0), limits[name]
            most = limits[queue_resource(of)].value
            found.append(
                OrgShare(
                    whose,
                    of,
                    running,
                    awaited.get(name, 0),
                    100 * running / most if most else None,
                    limit.value,
                    limit.source,
                    limit.until_ms / 1000 if limit.until_ms else None,
                    weights.get(whose, 1),
                )
            )
        return sorted(found, key=lambda share: (share.queue, share.org))

    def limit_org(
        self,
        org: str,
        value: int,
        queue: str | None = None,
        *,
        until_ms: int = 0,
        reason: str = "",
        by: str | None = None,
    ) -> tuple[str, ...]:
        """Set how many jobs an org may run at once; running ones go on.

        Args:
            org: the org.
            value: jobs from now on; 0 is none.
            queue: on this queue; by default on each queue known now.
            until_ms: when it ends by itself (Unix milliseconds); 0 is never. The limit that was set for good, or
                the configured one, holds again then.
            reason, by: kept in the log.

        Returns:
            The resources whose limit was set.

        Raises:
            InvalidValue: no such queue, a name that cannot be one, no limit, an end in the past.
            LedgerUnavailable, LedgerClosed: not now.
        """
        check_limit("limit", value)
        return self._set(dict.fromkeys(self._shares(org, queue), value), until_ms, reason, by)

    def throttle_org(
        self,
        org: str,
        to: int | None = None,
        queue: str | None = None,
        *,
        percent: float | None = None,
        until_ms: int,
        reason: str = "",
        by: str | None = None,
    ) -> tuple[str, ...]:
        """Lower an org's limit until a time; it is never raised by that.

        Args:
            org: the org.
            to: jobs it may run at once until then, or
            percent: this part of the limit that holds without the throttle, rounded up.
            queue: on this queue; by default on each queue known now.
            until_ms: when it ends (Unix milliseconds).
            reason, by: kept in the log.

        Returns:
            The resources whose limit was set.

        Raises:
            InvalidValue: neither a number nor a percentage, or both; as ``limit_org``.
        """
        if (to is None) == (percent is None):
            raise InvalidValue("throttle", (to, percent), "a number of jobs or a percentage")
        if percent is not None and not 0 <= percent <= 100:
            raise InvalidValue("percent", percent, "a number from 0 to 100")
        if to is not None:
            check_limit("throttle", to)
        names = self._shares(org, queue)
        values = {}
        for name, limit in self.ledger.limits(names).items():
            if limit.beneath is None:
                if to is None:
                    raise InvalidValue("percent", percent, f"a number of jobs: {name} has no limit")
                values[name] = to
            else:
                share = math.ceil(limit.beneath * (percent or 0) / 100) if to is None else to
                values[name] = min(share, limit.beneath)
        if until_ms <= 0:
            raise InvalidValue("until_ms", until_ms, "a moment to come")
        return self._set(values, until_ms, reason, by)

    def reset_limits(
        self,
        org: str | None = None,
        queue: str | None = None,
        *,
        resource: str | None = None,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> LimitReset:
        """Take back limits that were set, also temporary ones: the configured ones hold again.

        Args:
            org: of this org; by default of all.
            queue: on this queue; by default on all.
            resource: instead of orgs' limits that of this, such as ``model:ranker``.
            reason, by: kept in the log.
            dry_run: whether only to tell which.

        Raises:
            InvalidValue: no such queue, a name that cannot be one, or a resource beside an org or a queue.
            LedgerUnavailable, LedgerClosed: not now.
        """
        if resource is None:
            chosen = self._limited(org, queue)
        elif org is not None or queue is not None:
            raise InvalidValue("resource", resource, "given without an org and a queue")
        else:
            check_resource("resource", resource)
            was_set = self.ledger.limits([resource])[resource].source in ("override", "operator")
            chosen = [resource] if was_set else []
        if not dry_run:
            for name in chosen:
                self.ledger.limit(name, None, by or default_author(), reason)
            self.catch_up()
        return LimitReset(tuple(chosen), dry_run)

    def _limited(self, org: str | None, queue: str | None) -> list[str]:
        if queue is not None:
            self.check_queue(queue)
        if org is not None:
            check_name("org", org)
        found = []
        for name in self.ledger.limited(ORG):
            of, _, whose = name.removeprefix(f"{ORG}:").partition("/")
            if queue in (None, of) and org in (None, whose):
                found.append(name)
        return found

    def _shares(self, org: str, queue: str | None) -> tuple[str, ...]:
        check_name("org", org)
        queues = sorted(self.known_queues()) if queue is None else [self.check_queue(queue)]
        return tuple(org_resource(name, org) for name in queues)

    def _set(
        self, values: dict[str, int], until_ms: int, reason: str, by: str | None
    ) -> tuple[str, ...]:
        if until_ms and until_ms <= self.ledger.clock():
            raise InvalidValue("until_ms", until_ms, "a moment to come")
        for name, value in values.items():
            self.ledger.limit(name, value, by or default_author(), reason, until_ms)
        # What an operator has set outlives a wiped Redis, also where no worker records it.
        self.catch_up()
        return tuple(values)

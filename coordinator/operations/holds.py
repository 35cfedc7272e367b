"""Pauses: of a queue, a model, an org, an integration, or everything. Beside a limit, never in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.author import default_author
from coordinator.errors import InvalidValue
from coordinator.moments import shown_clock
from coordinator.recovery.catching_up import CatchingUp
from coordinator.resources import (
    SERIAL_RESOURCE,
    check_name,
    integration_resource,
    kind_of,
    model_resource,
    org_resource,
    queue_resource,
)

#: Who pauses what ``coordinator_queues`` says starts paused.
CONFIGURATION = "configuration"

#: First word of the author of what panic mode holds.
PANIC = "panic"


@dataclass(frozen=True, slots=True)
class Hold:
    """A pause.

    Attributes:
        resource: what is paused, such as ``queue:training``; ``serial`` is everything.
        by, reason: who paused it, and why.
        source: ``operator``, ``configuration`` or ``panic``.
        since, until: Unix seconds; None when it is not known, or does not end by itself.
    """

    resource: str
    by: str
    reason: str
    source: str
    since: float | None
    until: float | None


class Holds(CatchingUp):
    """The verbs that pause and resume."""

    def pause(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        org: str | None = None,
        integration: str | None = None,
        reason: str = "",
        by: str | None = None,
        until_ms: int | None = None,
    ) -> tuple[str, ...]:
        """Hold something; nothing that needs it starts after this returned.

        Also not what was dispatched before: a worker's claim is refused, and the job waits again. What runs goes
        on. A pause outlives restarts and a wiped Redis: this returns when it is in the store, or after three
        seconds when the database is away (it is recorded later).

        Args:
            queue: the queue to hold; with ``org`` only that org's jobs on it.
            model, org, integration: hold this instead; an org is held on all queues known now, if none is named.
                None of all holds everything.
            reason, by: shown to everybody who asks why.
            until_ms: when it ends by itself, Unix milliseconds.

        Returns:
            The names of the held resources.

        Raises:
            InvalidValue: an unknown queue, a name that cannot be one, two things at once, an end in the past.
            LedgerUnavailable, LedgerClosed: not now; nothing is paused.
        """
        resources = self._resources(queue, model, org, integration)
        if until_ms is not None and until_ms <= self.ledger.clock():
            raise InvalidValue("until", until_ms, "a moment to come")
        for resource in resources:
            self.ledger.hold(resource, by or default_author(), reason, until_ms)
        self.catch_up()
        return resources

    def resume(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        org: str | None = None,
        integration: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> bool:
        """End a pause; what waits for it starts in its turn.

        Args:
            queue, model, org, integration: as for ``pause``.
            reason, by: kept in the log.

        Returns:
            Whether there was one.

        Raises:
            InvalidValue: an unknown queue, a name that cannot be one, two things at once.
            LedgerUnavailable, LedgerClosed: not now.
        """
        resources = self._resources(queue, model, org, integration)
        author = by or default_author()
        done = [self.ledger.resume(resource, author, reason) for resource in resources]
        self.catch_up()
        return any(done)

    def get_holds(self) -> list[Hold]:
        """Return everything that is paused, by name."""
        return [hold_of(name, note) for name, note in sorted(self.ledger.holds().items())]

    def configure(self) -> None:
        """Bring the settings of this process to the ledger; what an operator set stays.

        A queue that is configured to start paused is paused the first time it is seen, and never again.
        """
        super().configure()
        paused = [name for name, queue in self.settings.queues.items() if queue.paused]
        noted = self.store.totals() if paused else {}
        for name in paused:
            if ("paused", name, CONFIGURATION) not in noted:
                self.ledger.hold(queue_resource(name), CONFIGURATION, "the queue starts paused")
                # Only now: a process that ended in between would have noted a pause that never was.
                self.store.first_pause(name)

    def known_queues(self) -> set[str]:
        """Return the queues that are configured, declared by the app, consumed, or have jobs."""
        declared = set() if self.application is None else set(self.application.queues())
        counted = {queue for queue, _ in self.ledger.counts()}
        return {*self.settings.queues, *declared, *counted, *self.ledger.consumed()}

    def check_queue(self, queue: str) -> str:
        """Return a queue's name. Without an app nobody says which there are, and any name will do.

        Raises:
            InvalidValue: there is no such queue; the message says which there are.
        """
        if self.application is None:
            return check_name("queue", queue)
        known = self.known_queues()
        if queue not in known:
            raise unknown_queue(queue, known)
        return queue

    def _resources(
        self, queue: str | None, model: str | None, org: str | None, integration: str | None
    ) -> tuple[str, ...]:
        given = {"queue": queue, "model": model, "org": org, "integration": integration}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1 and set(names) != {"queue", "org"}:
            allowed = "one of queue, model, org and integration, or an org on a queue"
            raise InvalidValue(names[-1], given[names[-1]], allowed)
        if queue is not None:
            self.check_queue(queue)
        if org is not None:
            check_name("org", org)
            queues = [queue] if queue is not None else sorted(self.known_queues())
            return tuple(org_resource(name, org) for name in queues)
        if model is not None:
            return (model_resource(check_name("model", model)),)
        if integration is not None:
            return (integration_resource(check_name("integration", integration)),)
        return (SERIAL_RESOURCE if queue is None else queue_resource(queue),)


def unknown_queue(queue: str, known: Iterable[str]) -> InvalidValue:
    """Return the error about a queue that is none of those that are known."""
    names = sorted(known)
    return InvalidValue("queue", queue, "one of " + ", ".join(names), names)


def hold_of(resource: str, note: Mapping[str, Any]) -> Hold:
    """Return a hold as the ledger notes it."""
    by = str(note.get("by") or "unknown")
    first = by.partition(":")[0]
    until, since = note.get("until_ms"), note.get("at_ms")
    return Hold(
        resource,
        by,
        str(note.get("reason") or ""),
        first if first in (CONFIGURATION, PANIC) else "operator",
        None if since is None else since / 1000,
        None if until is None else until / 1000,
    )


def paused_text(hold: Hold) -> str:
    """Return a pause in words: what, by whom, since when, why and until when."""
    name = hold.resource.replace(":", " ", 1)
    what = "everything" if hold.resource == SERIAL_RESOURCE else name
    return f"{what} is paused {paused_by(hold)}"


def paused_by(hold: Hold) -> str:
    """Return by whom something is paused, since when, why and until when."""
    since = f" since {shown_clock(hold.since)}" if hold.since else ""
    until = f" until {shown_clock(hold.until)}" if hold.until else ""
    reason = f": '{hold.reason}'" if hold.reason else ""
    return f"by {hold.by}{since}{until}{reason}"


def no_worker_text(queue: str, pending: int = 0) -> str:
    """Return what a queue has instead of a live worker, and how it gets one.

    Args:
        queue: its name.
        pending: jobs that wait there; 0 when they are not spoken of.
    """
    jobs = f"{pending} job{'s' if pending != 1 else ''} pending and " if pending else ""
    return f"{jobs}no live worker; {start_worker(queue)}"


def start_worker(queue: str) -> str:
    """Return how a queue gets a worker."""
    return f"coordinator up, or a worker of your app with -Q {queue}"


def way_out(resource: str, source: str = "operator") -> str:
    """Return the command that ends a pause.

    Args:
        resource, source: of the hold.
    """
    if source == PANIC:
        everything = resource == SERIAL_RESOURCE
        return (
            f"coordinator panic {'resume QUEUE, or --all' if everything else f'close {resource}'}"
        )
    kind, name = kind_of(resource), resource.partition(":")[2]
    if kind == "queue":
        return f"coordinator resume {name}"
    if kind == "org":
        queue, _, org = name.partition("/")
        return f"coordinator resume {queue} --org {org}"
    return f"coordinator resume --{kind} {name}" if name else "coordinator resume --all"

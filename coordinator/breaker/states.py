"""What there is to know of a circuit breaker, and the moves that are decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.store import Condition

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

#: Who opens and closes breakers by themselves.
BREAKER = "breaker"

VERBS = {OPEN: "panic_opened", HALF_OPEN: "panic_probing", CLOSED: "panic_closed"}


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker.

    Attributes:
        scope: ``queue:NAME``, ``integration:NAME``, or ``serial`` for everything.
        state: ``closed``, ``open`` or ``half_open``.
        since: Unix seconds.
        until: when it begins to probe (Unix seconds); None when it is not open, or was opened for good.
        by, cause: who opened it, and why.
        trips: times it has opened without having closed in between.
        completed, failed: jobs that ended in the window.
    """

    scope: str
    state: str
    since: float | None = None
    until: float | None = None
    by: str = ""
    cause: str = ""
    trips: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def percent(self) -> float | None:
        """Share of failures in the window."""
        ended = self.completed + self.failed
        return 100 * self.failed / ended if ended else None


@dataclass(frozen=True, slots=True)
class PanicStep:
    """What was done to a breaker, or would be.

    Attributes:
        scope: which.
        verb: ``panic_opened``, ``panic_probing`` or ``panic_closed``, as in the log.
        before, after: its states.
        cause: why.
        running, waiting: jobs that need its resource at this moment.
        dry_run: whether it is a rehearsal.
    """

    scope: str
    verb: str
    before: str
    after: str
    cause: str
    running: int
    waiting: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a breaker's state that somebody decided."""

    scope: str
    before: str
    after: str
    by: str
    cause: str
    data: dict[str, Any] = field(default_factory=dict)


def state_of(one: Condition | None) -> str:
    """Return the state of a breaker; one that nobody has heard of is closed."""
    return CLOSED if one is None else one.state


def kept(known: Condition | None) -> dict[str, Any]:
    """Return what was there before the panic, of a breaker that is opened again while it probes."""
    data = {} if known is None else known.data
    return {name: data[name] for name in ("override", "hold") if name in data}


def shown(scope: str, one: Condition | None, counted: tuple[int, int]) -> Breaker:
    """Return a breaker as people see it; ``counted`` is completed and failed jobs of its window."""
    if one is None:
        return Breaker(scope, CLOSED, completed=counted[0], failed=counted[1])
    until, trips = one.data.get("until_ms"), int(one.data.get("trips") or 0)
    return Breaker(
        scope,
        one.state,
        one.since / 1000,
        until / 1000 if until else None,
        str(one.data.get("by") or ""),
        str(one.data.get("cause") or ""),
        trips,
        *counted,
    )

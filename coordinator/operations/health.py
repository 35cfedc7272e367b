"""Health: how each queue does, with its reasons; whether the installation lives, and whether it is ready."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from coordinator.breaker import Breakers
from coordinator.durations import shown_duration
from coordinator.errors import CoordinatorError
from coordinator.operations.holds import PANIC, no_worker_text, paused_text
from coordinator.operations.overview import Overview, QueueState
from coordinator.resources import queue_resource
from coordinator.thresholds import Pair

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"

#: From the best to the worst.
LEVELS = (HEALTHY, DEGRADED, UNHEALTHY)

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a queue is not healthy.

    Attributes:
        name: ``capacity``, ``waiting``, ``failed``, ``wait``, ``no_worker``, ``idle_worker``, ``paused``
            or ``panic``.
        level: ``degraded`` or ``unhealthy``.
        value, threshold: what was measured, and what it reached; None where nothing is measured.
        text: in words.
    """

    name: str
    level: str
    value: float | None
    threshold: float | None
    text: str


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """How a queue does.

    Attributes:
        queue: its name.
        level: ``healthy``, ``degraded`` or ``unhealthy``, the worst of its causes.
        causes: the worst first; none when it is healthy.
        capacity: percent of its limit in use, None when it has none.
        waiting: pending jobs.
        failed: percent of the jobs that ended in the last hour, None when none did.
        wait: seconds that jobs which ended in the last hour had waited on average, None when none did.
    """

    queue: str
    level: str
    causes: tuple[Cause, ...]
    capacity: float | None
    waiting: int
    failed: float | None
    wait: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at for a probe."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to a probe: whether all is well, and what was looked at."""

    ok: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of the whole installation.

    Attributes:
        is_healthy: ready, and no queue is unhealthy.
        message: in words, the worst first.
        details: ``level``, ``checks`` by name and ``queues`` by name.
    """

    is_healthy: bool
    message: str
    details: dict[str, Any] = field(default_factory=dict)


class Health(Overview, Breakers):
    """The reads about health."""

    def get_queue_health(self, queue: str | None = None) -> list[QueueHealth]:
        """Return how each queue does, by name.

        Args:
            queue: only this one.

        Raises:
            InvalidValue: no such queue.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        if queue is not None:
            self.check_queue(queue)
        since = self.ledger.clock() - HOUR_MS
        states = [one for one in self.queues() if queue in (None, one.queue)]
        limits = self.ledger.limits([queue_resource(one.queue) for one in states])
        idle = [set(str(one.get("pool") or "").split()) for one in self.ledger.idle_workers()]
        return [
            self._health(
                one,
                limits[queue_resource(one.queue)].value,
                sum(one.queue in pool for pool in idle),
                since,
            )
            for one in states
        ]

    def health_check(self) -> HealthReport:
        """Return whether all is well; never raises, since it is asked when something is wrong."""
        ready = self.get_readiness()
        details: dict[str, Any] = {"checks": {one.name: one.text for one in ready.checks}}
        texts = [one.text for one in ready.checks if not one.ok]
        queues: list[QueueHealth] = []
        if ready.ok:
            try:
                queues = self.get_queue_health()
            except CoordinatorError as error:
                texts.append(str(error))
        details["queues"] = {one.queue: one.level for one in queues}
        level = worst(one.level for one in queues) if not texts else UNHEALTHY
        details["level"] = level
        causes = sorted(
            (
                (LEVELS.index(cause.level), one.queue, cause.text)
                for one in queues
                for cause in one.causes
            ),
            key=lambda item: -item[0],
        )
        texts += [f"{name}: {text}" for _, name, text in causes]
        return HealthReport(
            level != UNHEALTHY, "; ".join(texts) or "all queues are healthy", details
        )

    def get_liveness(self, worker: str | None = None) -> Probe:
        """Return whether this installation can do anything at all; a restart may help when not.

        Args:
            worker: a worker's node name: whether this one has renewed its lease; by default whether Redis answers.
                While Redis is away nobody renews, and a restart would only lose what has ended meanwhile.
        """
        found = self._check("redis", self._redis)
        if worker is None:
            return Probe(found.ok, (found,))
        if not found.ok:
            return Probe(True, (found, Check("worker", True, f"worker {worker} waits for Redis")))

        def renewed() -> tuple[bool, str]:
            nodes = [one.node for one in self.get_active_workers()]
            if worker in nodes:
                return True, f"worker {worker} renews its lease"
            return (
                False,
                f"worker {worker} has no lease; there are {', '.join(sorted(nodes)) or 'none'}",
            )

        check = self._check("worker", renewed)
        return Probe(check.ok, (found, check))

    def get_readiness(self) -> Probe:
        """Return whether jobs can be accepted and run: Redis, the ledger, the database and a worker."""

        def opened() -> tuple[bool, str]:
            if self.ledger.epoch() is None:
                return False, "the ledger waits for its restore: coordinator check"
            closed = self.ledger.restoring()
            if closed is not None:
                entered, of, awaited = closed
                text = f"the ledger is being restored: {entered} of {of} jobs, {awaited} workers awaited"
                return False, text
            return True, "the ledger is open"

        def stored() -> tuple[bool, str]:
            with self.store.reading() as connection:
                connection.exec_driver_sql("SELECT 1")
            return True, "the database answers"

        def worked() -> tuple[bool, str]:
            number = len(self.ledger.workers())
            return (
                number > 0,
                f"{number} live workers" if number else "no live worker: coordinator up",
            )

        checks = [self._check("redis", self._redis)]
        if checks[0].ok:
            checks.append(self._check("ledger", opened))
        checks.append(self._check("database", stored))
        if checks[0].ok:
            checks.append(self._check("workers", worked))
        return Probe(all(one.ok for one in checks), tuple(checks))

    def _redis(self) -> tuple[bool, str]:
        self.ledger.clock()
        return True, "Redis answers"

    @staticmethod
    def _check(name: str, look: Any) -> Check:
        try:
            ok, text = look()
        except CoordinatorError as error:
            ok, text = False, str(error)
        return Check(name, ok, text)

    def _health(self, state: QueueState, limit: int | None, idle: int, since: int) -> QueueHealth:
        rules, name = self.settings.health, state.queue
        busy = state.running + state.dispatched
        capacity = None if limit is None else (100.0 * busy / limit if limit else 100.0)
        completed = self.store.completed_since(since, name)
        failures = self.store.failed_since(since, name)
        ended = completed + failures
        failed = 100 * failures / ended if ended else None
        waited, _, _ = self.store.averages(since, name)
        wait = None if waited is None else waited / 1000
        found = [
            _measured("capacity", capacity, rules.capacity, f"{busy} of {limit} jobs at once", "%"),
            _measured("waiting", float(state.pending), rules.waiting, "jobs pending", ""),
            _measured("failed", failed, rules.failed, f"{failures} of {ended} jobs failed", "%"),
            _measured("wait", wait, rules.wait, "average wait of the last hour", "s"),
            *self._stopped(state, idle),
        ]
        causes = sorted(
            (cause for cause in found if cause is not None),
            key=lambda cause: -LEVELS.index(cause.level),
        )
        level = worst(cause.level for cause in causes)
        return QueueHealth(name, level, tuple(causes), capacity, state.pending, failed, wait)

    def _stopped(self, state: QueueState, idle: int) -> list[Cause]:
        found = []
        for hold in state.holds:
            panic = hold.source == PANIC
            level = UNHEALTHY if panic else DEGRADED
            name = "panic" if panic else "paused"
            found.append(Cause(name, level, None, None, paused_text(hold)))
        if state.pending and not state.consumed:
            text = no_worker_text(state.queue, state.pending)
            found.append(Cause("no_worker", UNHEALTHY, None, None, text))
        if idle:
            text = f"{idle} workers answer and take nothing; coordinator workers"
            found.append(Cause("idle_worker", DEGRADED, float(idle), None, text))
        return found


def _measured(name: str, value: float | None, pair: Pair, words: str, unit: str) -> Cause | None:
    if value is None or value < pair[0]:
        return None
    level, threshold = (UNHEALTHY, pair[1]) if value >= pair[1] else (DEGRADED, pair[0])
    if unit == "s":
        text = f"{words}: {shown_duration(value)} (from {shown_duration(threshold)})"
    elif unit == "%":
        text = f"{words}: {value:.0f} % (from {threshold:g} %)"
    else:
        text = f"{value:g} {words} (from {threshold:g})"
    return Cause(name, level, value, threshold, text)


def worst(levels: Iterable[str]) -> str:
    """Return the worst of some levels; ``healthy`` when there are none."""
    return max(levels, key=LEVELS.index, default=HEALTHY)

"""Panic mode: a circuit breaker per queue and integration, and the emergency stop of everything.

Closed, it watches how jobs end. Open, it holds its resource. Half-open, one run at a time probes: the first that
fails brings the hold back in the very step in which it ends (``lua/probe.lua``), and enough that succeed close it.
Its state is in the store, so that it outlives Redis and every process. Redis is changed first: a breaker whose
state was lost half-way is found by its hold, and taken up.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from coordinator.author import default_author
from coordinator.durations import shown_duration
from coordinator.errors import InvalidValue, LedgerClosed, Refused
from coordinator.holds import PANIC, Hold, Holds, way_out
from coordinator.resources import (
    INTEGRATION,
    QUEUE,
    SERIAL,
    SERIAL_RESOURCE,
    check_resource,
    kind_of,
    queue_resource,
)

if TYPE_CHECKING:
    from coordinator.store import Condition

logger = logging.getLogger("coordinator")

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

#: Who opens and closes breakers by themselves.
BREAKER = "breaker"

#: For how long nobody else changes a breaker, and how long one waits for that.
TERM_MS, TERM_SECONDS = 15_000, 5.0

#: An override must end some time; this one is ended by the breaker.
PROBING_MS = 366 * 86_400_000


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


_VERBS = {OPEN: "panic_opened", HALF_OPEN: "panic_probing", CLOSED: "panic_closed"}


@dataclass(frozen=True, slots=True)
class _Move:
    """A change of a breaker's state that somebody decided."""

    scope: str
    before: str
    after: str
    by: str
    cause: str
    data: dict[str, Any] = field(default_factory=dict)


class Breakers(Holds):
    """The verbs of panic mode."""

    def get_panic(self, scope: str | None = None) -> list[Breaker]:
        """Return the breakers that are not closed, or whose jobs have ended of late, by scope.

        Args:
            scope: only this one, whatever its state.

        Raises:
            InvalidValue: no scope.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        wanted = None if scope is None else self.check_scope(scope)
        now = self.ledger.clock()
        known = self.store.conditions("breaker")
        ended = self.store.outcomes(now - int(self.settings.panic.window * 1000))
        names = {*known, *ended} if wanted is None else {wanted}
        return [_shown(name, known.get(name), ended.get(name, (0, 0))) for name in sorted(names)]

    def open_panic(
        self,
        scope: str,
        *,
        until_ms: int | None = None,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> tuple[PanicStep, ...]:
        """Open a breaker by hand: nothing that needs its resource starts after this returned.

        Args:
            scope: ``queue:NAME``, ``integration:NAME``, or ``serial`` for everything.
            until_ms: when it begins to probe by itself (Unix milliseconds); by default never.
            reason, by: shown to everybody who asks why.
            dry_run: whether only to tell what that would touch.

        Raises:
            InvalidValue: no scope, an unknown queue, an end in the past.
            Refused: it is open; or somebody else changes breakers at this moment.
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        self.check_scope(scope)
        if until_ms is not None and until_ms <= self.ledger.clock():
            raise InvalidValue("until", until_ms, "a moment to come")
        author, cause = by or default_author(), reason or "opened by hand"
        with self._changing(dry_run):
            known = self.store.conditions("breaker").get(scope)
            before = _state(known)
            if before == OPEN:
                raise Refused(f"{scope} is in panic already: {way_out(scope, PANIC)}")
            if until_ms is not None and kind_of(scope) == SERIAL:
                raise InvalidValue("until", until_ms, "left out: everything is resumed by hand")
            data = {"until_ms": until_ms, "cooldown": self.settings.panic.cooldown, "trips": 1}
            move = _Move(scope, before, OPEN, author, cause, {**data, **_kept(known)})
            return (self._carry_out(move, dry_run),)

    def close_panic(
        self,
        scope: str,
        *,
        probe: bool = False,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> tuple[PanicStep, ...]:
        """Close a breaker by hand; what waits for it starts in its turn.

        Args:
            scope: as for ``open_panic``.
            probe: one run at a time first; it closes by itself when enough of them succeed.
            reason, by: kept in the log.
            dry_run: whether only to tell what that would touch.

        Raises:
            As ``open_panic``; Refused: it is closed.
        """
        self.check_scope(scope)
        author, cause = by or default_author(), reason or "closed by hand"
        with self._changing(dry_run):
            known = self.store.conditions("breaker").get(scope)
            before = _state(known)
            if known is None or before == CLOSED:
                raise Refused(f"{scope} is not in panic: coordinator panic shows what is")
            move = _Move(scope, before, CLOSED, author, cause, dict(known.data))
            if probe:
                if kind_of(scope) == SERIAL:
                    raise InvalidValue("probe", scope, "a queue or an integration")
                move = replace(move, after=HALF_OPEN)
            return (self._carry_out(move, dry_run),)

    def emergency_stop(
        self,
        *,
        release: bool = False,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> tuple[PanicStep, ...]:
        """Stop everything: nothing starts any more until ``emergency_resume``.

        Args:
            release: also stop what runs; it goes back to waiting, uncounted.
            reason, by, dry_run: as for ``open_panic``.

        Raises:
            As ``open_panic``.
        """
        author, cause = by or default_author(), reason or "emergency stop"
        steps = self.open_panic(SERIAL_RESOURCE, reason=cause, by=author, dry_run=dry_run)
        if release and not dry_run:
            for job in self.ledger.running():
                self.ledger.release(job["id"], cause, author)
        return steps

    def emergency_resume(
        self,
        queue: str | None = None,
        *,
        at_once: bool = False,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> tuple[PanicStep, ...]:
        """Resume after an emergency stop: one queue after the other, or all that are left.

        The first step moves the stop from everything to each queue, so that the others stay stopped.

        Args:
            queue: the next to go on, one run at a time until enough have succeeded; None is all that are left.
            at_once: without these probes.
            reason, by, dry_run: as for ``close_panic``.

        Raises:
            As ``close_panic``; Refused: there was no emergency stop, or the queue goes on already.
        """
        if queue is not None:
            self.check_queue(queue)
        author, cause = by or default_author(), reason or "resumed after the emergency stop"
        known = self.store.conditions("breaker")
        everything = _state(known.get(SERIAL_RESOURCE)) == OPEN
        stopped = [name for name, one in known.items() if one.data.get("emergency")]
        if not everything and not stopped:
            raise Refused("there was no emergency stop: coordinator panic shows what is in panic")
        steps: list[PanicStep] = []
        how: dict[str, Any] = {"by": author, "dry_run": dry_run}
        if everything:
            if queue is not None:
                steps += self._spread(known[SERIAL_RESOURCE], known, author, dry_run)
                stopped = [step.scope for step in steps]
            steps += self.close_panic(SERIAL_RESOURCE, reason=cause, **how)
        chosen = stopped if queue is None else [queue_resource(queue)]
        if queue is not None and dry_run and everything:
            return (*steps, self._step(_Move(chosen[0], OPEN, HALF_OPEN, author, cause), True))
        for scope in chosen:
            probe = queue is not None and not at_once
            steps += self.close_panic(scope, probe=probe, reason=cause, **how)
        return tuple(steps)

    def evaluate_panic(self, *, dry_run: bool = False) -> tuple[PanicStep, ...]:
        """Look at how jobs have ended of late, and open, probe and close breakers accordingly.

        Beat has it done; a rehearsal tells what would happen with the present thresholds.

        Args:
            dry_run: whether only to tell.

        Raises:
            Refused: somebody else does it at this moment.
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        with self._changing(dry_run, 0.0):
            epoch = self.built_epoch()
            self.catch_up(1.0)
            now = self.ledger.clock()
            known = self.store.conditions("breaker")
            holds = {hold.resource: hold for hold in self.get_holds()}
            if self.built_epoch() != epoch:
                raise LedgerClosed("the ledger was restored meanwhile")
            moves = [
                *self._lost(known, holds, now),
                *self._due(known, holds, now),
                *self._broken(known, holds, now),
            ]
            if not dry_run:
                self._forget(known, now)
            return tuple(self._carry_out(move, dry_run) for move in moves)

    def check_scope(self, scope: str) -> str:
        """Return what can be in panic.

        Raises:
            InvalidValue: no queue, integration or ``serial``, or an unknown queue.
        """
        kind, name = kind_of(scope), scope.partition(":")[2]
        if kind not in (QUEUE, INTEGRATION, SERIAL):
            raise InvalidValue("scope", scope, "queue:NAME, integration:NAME or serial")
        check_resource("scope", scope)
        if kind == QUEUE:
            self.check_queue(name)
        return scope

    # -- what is decided ---------------------------------------------------------------------------

    def _lost(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[_Move]:
        """Take up what a process left half-way: panic's hold is there, its state is not."""
        for scope, hold in holds.items():
            if hold.source == PANIC and _state(known.get(scope)) == CLOSED:
                cooldown = self.settings.panic.cooldown
                # What stops everything is ended by hand alone.
                until = None if kind_of(scope) == SERIAL else now + int(cooldown * 1000)
                data = {"until_ms": until, "cooldown": cooldown, "trips": 1}
                yield _Move(scope, CLOSED, OPEN, BREAKER, hold.reason, data)

    def _due(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[_Move]:
        """What becomes of breakers that are open or half-open."""
        for scope, one in known.items():
            hold, data = holds.get(scope), dict(one.data)
            if one.state == CLOSED or (hold is not None and hold.source != PANIC):
                # An operator's pause counts more: it is not ended by a probe.
                continue
            if one.state == OPEN and hold is None:
                yield _Move(scope, OPEN, CLOSED, BREAKER, "its hold was resumed", data)
            elif one.state == OPEN and data.get("until_ms") and now >= data["until_ms"]:
                yield _Move(scope, OPEN, HALF_OPEN, BREAKER, "the cool-down is over", data)
            elif one.state == HALF_OPEN and hold is not None:
                longest = self.settings.panic.cooldown_most
                cooldown = min(2 * float(data.get("cooldown") or 0), longest)
                data |= {"cooldown": cooldown, "until_ms": now + int(cooldown * 1000)}
                data["trips"] = int(data.get("trips") or 0) + 1
                yield _Move(scope, HALF_OPEN, OPEN, BREAKER, "a probe failed", data)
            elif one.state == HALF_OPEN:
                done = self.store.probes(scope, one.since)
                if done >= self.settings.panic.probes:
                    yield _Move(scope, HALF_OPEN, CLOSED, BREAKER, f"{done} probes succeeded", data)
                elif not self.ledger.probing(scope):
                    # Redis has forgotten it.
                    yield _Move(scope, HALF_OPEN, HALF_OPEN, BREAKER, "probing goes on", data)

    def _broken(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[_Move]:
        """Breakers that have to open."""
        rules = self.settings.panic
        window = now - int(rules.window * 1000)
        for scope, recent in sorted(self.store.outcomes(window).items()):
            one = known.get(scope)
            if scope in holds or _state(one) != CLOSED:
                continue
            completed, failed = recent
            if one is not None and one.since > window:
                # Failures of before it closed must not open it again.
                completed, failed = self.store.outcomes(one.since).get(scope, (0, 0))
            ended = completed + failed
            if ended >= rules.volume and 100 * failed / ended >= rules.percent:
                cause = f"{failed} of {ended} jobs failed within {shown_duration(rules.window)}"
                until = now + int(rules.cooldown * 1000)
                data = {"until_ms": until, "cooldown": rules.cooldown, "trips": 1}
                yield _Move(scope, CLOSED, OPEN, BREAKER, cause, data)

    def _forget(self, known: Mapping[str, Condition], now: int) -> None:
        """Forget breakers that closed so long ago that nothing of before counts any more."""
        for scope, one in known.items():
            if one.state == CLOSED and one.since < now - self.settings.panic.window * 1000:
                self.store.drop_condition("breaker", scope)

    def _spread(
        self, stop: Condition, known: Mapping[str, Condition], by: str, dry_run: bool
    ) -> Iterator[PanicStep]:
        """Move the emergency stop from everything to each queue that is not held yet."""
        held = self.ledger.holds()
        with self._changing(dry_run):
            for name in sorted(self.known_queues()):
                scope = queue_resource(name)
                if scope in held or _state(known.get(scope)) != CLOSED:
                    continue
                data = {"cooldown": self.settings.panic.cooldown, "trips": 1, "emergency": True}
                cause = str(stop.data.get("cause") or "emergency stop")
                yield self._carry_out(_Move(scope, CLOSED, OPEN, by, cause, data), dry_run)

    # -- how it is done ----------------------------------------------------------------------------

    def _carry_out(self, move: _Move, dry_run: bool) -> PanicStep:
        step = self._step(move, dry_run)
        if dry_run:
            return step
        data = {**move.data, "by": move.by, "cause": move.cause}
        # From before anything is done: the first probe begins after it.
        now = self.ledger.clock()
        if move.after == OPEN:
            self._open(move, data)
        elif move.after == HALF_OPEN:
            # What opened it stays what is shown of it.
            data |= {"by": move.data.get("by", move.by), "cause": move.data.get("cause", "")}
            self._probe(move, data)
        else:
            self._close(move, data)
        self.catch_up()
        self.store.set_condition("breaker", move.scope, move.after, now, data)
        if move.before != move.after:
            self.store.note(
                step.verb,
                move.by,
                move.cause,
                resource=move.scope,
                before=move.before,
                after=move.after,
                data={key: data[key] for key in ("until_ms", "trips") if data.get(key)},
            )
            level = logging.WARNING if move.after == OPEN else logging.INFO
            text = "[COORDINATOR] panic: %s is %s: %s"
            logger.log(level, text, move.scope, move.after, move.cause)
        return step

    def _open(self, move: _Move, data: dict[str, Any]) -> None:
        held = self.ledger.holds().get(move.scope)
        if held is not None and not str(held.get("by")).startswith(PANIC):
            # An operator's pause, which is there again when the panic is over.
            data["hold"] = {name: held.get(name) for name in ("by", "reason", "until_ms")}
        self.ledger.hold(move.scope, f"{PANIC}:{move.by}", move.cause)
        self.ledger.end_probing(move.scope)
        self._give_back_limit(move.scope, data)

    def _probe(self, move: _Move, data: dict[str, Any]) -> None:
        scope, author = move.scope, f"{PANIC}:{move.by}"
        now = self.ledger.clock()
        limit = self.ledger.limits([scope])[scope]
        if limit.source == "override" and limit.until_ms < now + PROBING_MS / 2:
            data["override"] = [limit.value, limit.until_ms]
        # First the limit, and only then the end of the hold: never more than one run at a time.
        most = 1 if limit.value is None else min(1, limit.value)
        self.ledger.limit(scope, most, author, "one probe at a time", now + PROBING_MS)
        hold_by = f"{PANIC}:{BREAKER}"
        self.ledger.probe(scope, hold_by, "a probe failed", author, move.cause)
        data.pop("emergency", None)
        data["until_ms"] = None

    def _close(self, move: _Move, data: dict[str, Any]) -> None:
        scope, author = move.scope, f"{PANIC}:{move.by}"
        self.ledger.end_probing(scope)
        self._give_back_limit(scope, data)
        before, now = data.pop("hold", None), self.ledger.clock()
        if before and not (before.get("until_ms") and before["until_ms"] <= now):
            reason, until = str(before.get("reason") or ""), before.get("until_ms")
            self.ledger.hold(scope, str(before.get("by")), reason, until)
        else:
            self.ledger.resume(scope, author, move.cause)
        data.pop("emergency", None)
        data |= {"until_ms": None, "trips": 0}

    def _give_back_limit(self, scope: str, data: dict[str, Any]) -> None:
        limit = self.ledger.limits([scope])[scope]
        now, author = self.ledger.clock(), f"{PANIC}:{BREAKER}"
        if limit.source == "override" and limit.until_ms > now + PROBING_MS / 2:
            self.ledger.limit(scope, None, author, "the probing is over", limit.until_ms)
        before = data.pop("override", None)
        if before and before[1] > now:
            self.ledger.limit(scope, before[0], author, "as before the panic", before[1])

    def _step(self, move: _Move, dry_run: bool) -> PanicStep:
        waiting = self.ledger.awaited(kind_of(move.scope)).get(move.scope, 0)
        running = self.ledger.in_use(move.scope)
        verb = _VERBS[move.after]
        parts = move.scope, verb, move.before, move.after, move.cause, running, waiting
        return PanicStep(*parts, dry_run)

    @contextmanager
    def _changing(self, dry_run: bool, seconds: float = TERM_SECONDS) -> Iterator[None]:
        """Be the only one who changes breakers; a rehearsal changes nothing."""
        if dry_run:
            yield
            return
        holder = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not self.ledger.elect(BREAKER, holder, TERM_MS):
            if time.monotonic() > deadline:
                raise Refused("somebody else changes circuit breakers: try again in a moment")
            pause.wait(0.05)
        try:
            yield
        finally:
            try:
                self.ledger.resign(BREAKER, holder)
            except LedgerClosed as error:
                logger.debug("[COORDINATOR] the term ends by itself: %s", error)


def _state(one: Condition | None) -> str:
    return CLOSED if one is None else one.state


def _kept(known: Condition | None) -> dict[str, Any]:
    # What was there before the panic, of a breaker that is opened again while it probes.
    data = {} if known is None else known.data
    return {name: data[name] for name in ("override", "hold") if name in data}


def _shown(scope: str, one: Condition | None, counted: tuple[int, int]) -> Breaker:
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

"""How a breaker's state is changed: Redis first, then the store, and the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coordinator.breaker.states import BREAKER, HALF_OPEN, OPEN, VERBS, Move, PanicStep
from coordinator.errors import Refused
from coordinator.identity import holder
from coordinator.ledger import PROBE_FAILED
from coordinator.operations.holds import PANIC, Holds
from coordinator.resources import kind_of

logger = logging.getLogger("coordinator")

#: For how long nobody else changes a breaker, and how long one waits for that.
TERM_MS, TERM_SECONDS = 15_000, 5.0

#: An override must end some time; this one is ended by the breaker.
PROBING_MS = 366 * 86_400_000


class Changes(Holds):
    """Carries out moves that were decided."""

    def _carry_out(self, move: Move, dry_run: bool) -> PanicStep:
        step = self._step(move, dry_run)
        if dry_run:
            return step
        # Anew for each move: those before it may have waited for the database, some seconds each.
        if not self.ledger.elect(BREAKER, holder(), TERM_MS):
            raise _not_alone()
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

    def _open(self, move: Move, data: dict[str, Any]) -> None:
        # An operator's pause is there again when the panic is over. It is kept in panic's hold as well, for whoever
        # takes that up should this process end before the store has it.
        held = self.ledger.holds().get(move.scope, {})
        if held and not str(held.get("by")).startswith(PANIC):
            data["hold"] = {name: held.get(name) for name in ("by", "reason", "until_ms")}
        elif held.get("beneath"):
            data["hold"] = held["beneath"]
        author = f"{PANIC}:{move.by}"
        self.ledger.hold(move.scope, author, move.cause, beneath=data.get("hold"))
        self.ledger.end_probing(move.scope)
        self._give_back_limit(move.scope, data)

    def _probe(self, move: Move, data: dict[str, Any]) -> None:
        scope, author = move.scope, f"{PANIC}:{move.by}"
        now = self.ledger.clock()
        limit = self.ledger.limits([scope])[scope]
        if limit.source == "override" and limit.until_ms < now + PROBING_MS / 2:
            data["override"] = [limit.value, limit.until_ms]
        # First the limit, and only then the end of the hold: never more than one run at a time.
        most = 1 if limit.value is None else min(1, limit.value)
        self.ledger.limit(scope, most, author, "one probe at a time", now + PROBING_MS)
        self.ledger.probe(scope, *PROBE_FAILED, author, move.cause)
        data.pop("emergency", None)
        data["until_ms"] = None

    def _close(self, move: Move, data: dict[str, Any]) -> None:
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

    def _step(self, move: Move, dry_run: bool) -> PanicStep:
        waiting = self.ledger.awaited(kind_of(move.scope)).get(move.scope, 0)
        running = self.ledger.in_use(move.scope)
        verb = VERBS[move.after]
        parts = move.scope, verb, move.before, move.after, move.cause, running, waiting
        return PanicStep(*parts, dry_run)

    @contextmanager
    def _changing(self, dry_run: bool, seconds: float = TERM_SECONDS) -> Iterator[None]:
        """Be the only one who changes breakers; a rehearsal changes nothing."""
        if dry_run:
            yield
            return
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not self.ledger.elect(BREAKER, holder(), TERM_MS):
            if time.monotonic() > deadline:
                raise _not_alone()
            pause.wait(0.05)
        try:
            yield
        finally:
            self.ledger.resign(BREAKER, holder())


def _not_alone() -> Refused:
    return Refused("somebody else changes circuit breakers: try again in a moment")

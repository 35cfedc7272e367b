"""Breakers opened and closed by hand."""

from __future__ import annotations

from dataclasses import replace

from coordinator.author import default_author
from coordinator.breaker.changes import Changes
from coordinator.breaker.states import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    Breaker,
    Move,
    PanicStep,
    kept,
    shown,
    state_of,
)
from coordinator.errors import InvalidValue, Refused
from coordinator.operations.holds import PANIC, way_out
from coordinator.resources import INTEGRATION, QUEUE, SERIAL, check_resource, kind_of


class ByHand(Changes):
    """The operators' verbs about one breaker."""

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
        return [shown(name, known.get(name), ended.get(name, (0, 0))) for name in sorted(names)]

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
            before = state_of(known)
            if before == OPEN:
                raise Refused(f"{scope} is in panic already: {way_out(scope, PANIC)}")
            if until_ms is not None and kind_of(scope) == SERIAL:
                raise InvalidValue("until", until_ms, "left out: everything is resumed by hand")
            data = {"until_ms": until_ms, "cooldown": self.settings.panic.cooldown, "trips": 1}
            move = Move(scope, before, OPEN, author, cause, {**data, **kept(known)})
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
            before = state_of(known)
            if known is None or before == CLOSED:
                raise Refused(f"{scope} is not in panic: coordinator panic shows what is")
            move = Move(scope, before, CLOSED, author, cause, dict(known.data))
            if probe:
                if kind_of(scope) == SERIAL:
                    raise InvalidValue("probe", scope, "a queue or an integration")
                move = replace(move, after=HALF_OPEN)
            return (self._carry_out(move, dry_run),)

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

"""Breakers that open, probe and close by themselves, by how jobs have ended of late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from coordinator.breaker.changes import Changes
from coordinator.breaker.states import BREAKER, CLOSED, HALF_OPEN, OPEN, Move, PanicStep, state_of
from coordinator.durations import shown_duration
from coordinator.errors import LedgerClosed
from coordinator.operations.holds import PANIC, Hold
from coordinator.resources import SERIAL, kind_of

if TYPE_CHECKING:
    from coordinator.store import Condition


class Evaluation(Changes):
    """The verb of beat."""

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

    def _lost(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[Move]:
        """Take up what a process left half-way: panic's hold is there, its state is not."""
        for scope, hold in holds.items():
            if hold.source == PANIC and state_of(known.get(scope)) == CLOSED:
                cooldown = self.settings.panic.cooldown
                # What stops everything is ended by hand alone.
                until = None if kind_of(scope) == SERIAL else now + int(cooldown * 1000)
                data = {"until_ms": until, "cooldown": cooldown, "trips": 1}
                yield Move(scope, CLOSED, OPEN, BREAKER, hold.reason, data)

    def _due(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[Move]:
        """What becomes of breakers that are open or half-open."""
        for scope, one in known.items():
            hold, data = holds.get(scope), dict(one.data)
            if one.state == CLOSED or (hold is not None and hold.source != PANIC):
                # An operator's pause counts more: it is not ended by a probe.
                continue
            if one.state == OPEN and hold is None:
                yield Move(scope, OPEN, CLOSED, BREAKER, "its hold was resumed", data)
            elif one.state == OPEN and data.get("until_ms") and now >= data["until_ms"]:
                yield Move(scope, OPEN, HALF_OPEN, BREAKER, "the cool-down is over", data)
            elif one.state == HALF_OPEN and hold is not None:
                longest = self.settings.panic.cooldown_most
                cooldown = min(2 * float(data.get("cooldown") or 0), longest)
                data |= {"cooldown": cooldown, "until_ms": now + int(cooldown * 1000)}
                data["trips"] = int(data.get("trips") or 0) + 1
                yield Move(scope, HALF_OPEN, OPEN, BREAKER, "a probe failed", data)
            elif one.state == HALF_OPEN:
                done = self.store.probes(scope, one.since)
                if done >= self.settings.panic.probes:
                    yield Move(scope, HALF_OPEN, CLOSED, BREAKER, f"{done} probes succeeded", data)
                elif not self.ledger.probing(scope):
                    # Redis has forgotten it.
                    yield Move(scope, HALF_OPEN, HALF_OPEN, BREAKER, "probing goes on", data)

    def _broken(
        self, known: Mapping[str, Condition], holds: Mapping[str, Hold], now: int
    ) -> Iterator[Move]:
        """Breakers that have to open."""
        rules = self.settings.panic
        window = now - int(rules.window * 1000)
        for scope, recent in sorted(self.store.outcomes(window).items()):
            one = known.get(scope)
            if scope in holds or state_of(one) != CLOSED:
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
                yield Move(scope, CLOSED, OPEN, BREAKER, cause, data)

    def _forget(self, known: Mapping[str, Condition], now: int) -> None:
        """Forget breakers that closed so long ago that nothing of before counts any more."""
        for scope, one in known.items():
            if one.state == CLOSED and one.since < now - self.settings.panic.window * 1000:
                self.store.drop_condition("breaker", scope)

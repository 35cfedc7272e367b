"""The emergency stop: a breaker of everything, which is resumed queue by queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from coordinator.author import default_author
from coordinator.breaker.by_hand import ByHand
from coordinator.breaker.states import CLOSED, HALF_OPEN, OPEN, Move, PanicStep, state_of
from coordinator.errors import Refused
from coordinator.resources import SERIAL_RESOURCE, queue_resource

if TYPE_CHECKING:
    from coordinator.store import Condition


class Emergency(ByHand):
    """The verbs about everything."""

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
        everything = state_of(known.get(SERIAL_RESOURCE)) == OPEN
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
            return (*steps, self._step(Move(chosen[0], OPEN, HALF_OPEN, author, cause), True))
        for scope in chosen:
            probe = queue is not None and not at_once
            steps += self.close_panic(scope, probe=probe, reason=cause, **how)
        return tuple(steps)

    def _spread(
        self, stop: Condition, known: Mapping[str, Condition], by: str, dry_run: bool
    ) -> Iterator[PanicStep]:
        """Move the emergency stop from everything to each queue that is not held yet."""
        held = self.ledger.holds()
        with self._changing(dry_run):
            for name in sorted(self.known_queues()):
                scope = queue_resource(name)
                if scope in held or state_of(known.get(scope)) != CLOSED:
                    continue
                data = {"cooldown": self.settings.panic.cooldown, "trips": 1, "emergency": True}
                cause = str(stop.data.get("cause") or "emergency stop")
                yield self._carry_out(Move(scope, CLOSED, OPEN, by, cause, data), dry_run)

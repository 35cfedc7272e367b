"""What stands in the way of a wish: its jobs would only wait, fail, or pile up what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.durations import shown_duration
from coordinator.ledger import Ledger, Limit
from coordinator.operations.holds import PANIC, hold_of, no_worker_text, paused_text
from coordinator.populator.wishes import Wish
from coordinator.resources import (
    SERIAL_RESOURCE,
    integration_resource,
    model_resource,
    queue_resource,
)

if TYPE_CHECKING:
    from coordinator.store import Store

#: Jobs of a wish that must fail one after the other before it waits, and how long then, doubling, in seconds.
FAILURES, BACK_OFF_LEAST, BACK_OFF_MOST = 3, 30.0, 3600.0


@dataclass(frozen=True)
class Sight:
    """What a round sees before it decides.

    Attributes:
        present: jobs pending or running, by queue and model.
        holds, limits: of what the wishes need.
        consumed: queues with a live worker.
        probing: resources whose circuit breaker lets one job at a time try.
    """

    present: dict[tuple[str, str | None], int]
    holds: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, Limit]
    consumed: set[str]
    probing: set[str] = field(default_factory=set)


def look(ledger: Ledger, wishes: Sequence[Wish]) -> Sight:
    """Return what the wishes of a round are compared with."""
    needs = sorted({need for wish in wishes for need in needs_of(wish)})
    holds, limits = ledger.holds(), ledger.limits(needs)
    probing = {need for need in needs if ledger.probing(need)}
    return Sight(ledger.present(), holds, limits, ledger.consumed(), probing)


def needs_of(wish: Wish) -> list[str]:
    """Return the resources of the jobs of a wish."""
    found = [queue_resource(wish.queue), SERIAL_RESOURCE]
    if wish.model is not None:
        found.append(model_resource(wish.model))
    if wish.integration is not None:
        found.append(integration_resource(wish.integration))
    return found


def obstacle(wish: Wish, sight: Sight) -> tuple[str, str] | None:
    """Return why nothing should be added for a wish now, as code and words; None when nothing is against it."""
    for need in needs_of(wish):
        if need in sight.holds:
            hold = hold_of(need, sight.holds[need])
            return "panic" if hold.source == PANIC else "paused", paused_text(hold)
        if sight.limits[need].value == 0:
            return "limit", f"{need} has a limit of 0; coordinator reset-limit {need}"
    if wish.queue not in sight.consumed:
        return "no_worker", f"queue {wish.queue} has {no_worker_text(wish.queue)}"
    if wish.feeds is None:
        return None
    need = queue_resource(wish.feeds)
    if need in sight.holds:
        hold = hold_of(need, sight.holds[need])
        return "consumer", f"what it makes is not used up: {paused_text(hold)}"
    if wish.feeds not in sight.consumed:
        text = f"queue {wish.feeds} has {no_worker_text(wish.feeds)}"
        return "consumer", f"what it makes is not used up: {text}"
    return None


def failed_in_a_row(store: Store, wish: Wish) -> tuple[int, int]:
    """Return how many jobs of a wish failed one after the other, 0 if too few to say anything, and when last (ms)."""
    number, last = store.failures_in_a_row(wish.queue, wish.model, wish.task)
    return (number if number >= FAILURES else 0), last


def backing_off(store: Store, wish: Wish, now_ms: int) -> tuple[str, str] | None:
    """Return why a wish whose jobs keep failing is left alone for a while, as ``obstacle`` does."""
    number, last = failed_in_a_row(store, wish)
    if not number:
        return None
    pause = min(BACK_OFF_MOST, BACK_OFF_LEAST * 2.0 ** (number - FAILURES))
    left = pause - (now_ms - last) / 1000
    if left <= 0:
        return None
    text = (
        f"the last {number} jobs failed; tried again in {shown_duration(left)}; coordinator errors"
    )
    return "backing_off", text

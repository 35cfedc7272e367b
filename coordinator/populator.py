"""The populator: keeps queues from running dry, without filling them for its own sake.

The app says what there should be (setting ``coordinator_populator``, a callable that returns wishes);
the populator compares that with what is pending or running, and submits the difference.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import InvalidSetting
from coordinator.resources import SERIAL_RESOURCE, model_resource, queue_resource
from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")

#: Only one populator decides at a time, so that two never fill the same gap.
TERM_MS = 30_000


@dataclass(frozen=True, slots=True)
class Wish:
    """There should be ``depth`` pending or running jobs of this queue and model.

    Attributes:
        queue, model: what is to be kept filled; a model of None counts jobs without one.
        task, kwargs: what to submit.
        depth: jobs wanted, pending or running.
        reason: shown with the decision.
    """

    queue: str
    model: str | None
    task: str
    kwargs: dict[str, Any]
    depth: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one wish, and why."""

    queue: str
    model: str | None
    present: int
    wanted: int
    submitted: int
    reason: str


@dataclass
class Population:
    """The last round: when, what was added, what was decided about each wish."""

    at: float = 0.0
    added: int = 0
    decisions: list[Decision] = field(default_factory=list)


Send = Callable[[Wish], Any]


def load_plan(path: str) -> Callable[[], Sequence[Wish]]:
    """Return the callable named ``module:function``.

    Raises:
        InvalidSetting: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        plan: Callable[[], Sequence[Wish]] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSetting("coordinator_populator", path, f"module:function ({error})") from None
    return plan


class QueuePopulator:
    """Tops queues up to what the app wishes.

    Args:
        work_queue: where the jobs are.
        plan: returns the wishes of this moment.
        send: submits one job for a wish.
        holder: who decides, unique to this process.
    """

    def __init__(
        self,
        work_queue: WorkQueue,
        plan: Callable[[], Sequence[Wish]],
        send: Send,
        holder: str,
    ) -> None:
        self.work_queue, self.plan, self.send, self.holder = work_queue, plan, send, holder
        self.last = Population()
        self._added: list[float] = []

    def populate(self, force: bool = False) -> Population:
        """Do one round.

        Args:
            force: also fill queues that are paused or have no worker.

        Returns:
            What was decided; an empty round when another process is deciding.
        """
        ledger = self.work_queue.ledger
        if not ledger.elect("populator", self.holder, TERM_MS):
            return Population(time.time())
        try:
            population = Population(time.time())
            present = ledger.present()
            holds = ledger.holds()
            for wish in self.plan():
                decision = self._decide(wish, present, holds, force)
                population.decisions.append(decision)
                population.added += decision.submitted
        finally:
            ledger.resign("populator", self.holder)
        hour_ago = time.time() - 3600
        self._added = [at for at in self._added if at > hour_ago]
        self._added += [population.at] * population.added
        self.last = population
        return population

    def populate_all_queues(self, force: bool = False) -> _Awaitable:
        """Do one round; the answer can also be awaited."""
        return _Awaitable(self.populate(force))

    def health_check(self) -> dict[str, Any]:
        """Return is_healthy, message, last_populate_time and items_added_hour."""
        silent = time.time() - self.last.at if self.last.at else None
        healthy = silent is not None and silent < 60
        message = "populated lately" if healthy else "no round in the last minute"
        return {
            "is_healthy": healthy,
            "message": message,
            "last_populate_time": self.last.at or None,
            "items_added_hour": len(self._added),
        }

    def _decide(
        self,
        wish: Wish,
        present: dict[tuple[str, str | None], int],
        holds: dict[str, Any],
        force: bool,
    ) -> Decision:
        key = (wish.queue, wish.model)
        there = present.get(key, 0)
        missing = max(0, wish.depth - there)
        reason = wish.reason
        held = [queue_resource(wish.queue), SERIAL_RESOURCE]
        if wish.model is not None:
            held.append(model_resource(wish.model))
        stopped = next((resource for resource in held if resource in holds), None)
        if stopped is not None and not force:
            missing, reason = 0, f"{stopped} is paused: {holds[stopped].get('reason', '')}"
        for _ in range(missing):
            self.send(wish)
        present[key] = there + missing
        return Decision(wish.queue, wish.model, there, wish.depth, missing, reason)


class _Awaitable:
    """A finished round that can be awaited as well as read."""

    def __init__(self, population: Population) -> None:
        self.population = population

    def __getattr__(self, name: str) -> Any:
        return getattr(self.population, name)

    def __await__(self) -> Any:
        return self._answer().__await__()

    def _answer(self) -> Awaitable[Population]:
        async def answer() -> Population:
            await asyncio.sleep(0)
            return self.population

        return answer()

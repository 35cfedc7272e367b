"""Rounds of the populator: each looks at all wishes, decides, and submits what is missing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coordinator.errors import CoordinatorError
from coordinator.identity import holder
from coordinator.populator.obstacles import (
    Sight,
    backing_off,
    failed_in_a_row,
    look,
    needs_of,
    obstacle,
)
from coordinator.populator.rounds import NAME, Rounds
from coordinator.populator.wishes import Decision, Population, Wish
from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")

#: Only one populator decides at a time, so that two never fill the same gap.
TERM_MS = 30_000

Send = Callable[[Wish], Any]


class QueuePopulator:
    """Tops queues up to what the app wishes.

    Args:
        work_queue: where the jobs are.
        plan: returns the wishes of this moment.
        send: submits one job for a wish.
    """

    def __init__(
        self, work_queue: WorkQueue, plan: Callable[[], Sequence[Wish]], send: Send
    ) -> None:
        self.work_queue, self.plan, self.send = work_queue, plan, send
        self.rounds = Rounds(work_queue.store)

    def populate(
        self,
        force: bool = False,
        dry_run: bool = False,
        *,
        reason: str = "",
        by: str | None = None,
    ) -> Population:
        """Do one round.

        Args:
            force: fill up to the high water whatever stands in the way: a pause, no worker, a consumer that
                stands still, failures of before.
            dry_run: whether only to tell what would be decided.
            reason, by: for the log, where a round that somebody asked for is noted when it added jobs; None is beat.

        Returns:
            What was decided; ``error`` says why nothing could be.

        Raises:
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        ledger = self.work_queue.ledger
        now = time.time()
        if ledger.epoch() is None or ledger.restoring() is not None:
            # What is there is not all entered yet: it would be submitted a second time.
            return Population(now, error="the ledger is being restored")
        if dry_run:
            return self._round(now, force, send=False)
        if not ledger.elect(NAME, holder(), TERM_MS):
            return Population(now, error=f"{ledger.leader(NAME)} is deciding")
        try:
            population = self._round(now, force, send=True)
            self.rounds.note(population)
        finally:
            ledger.resign(NAME, holder())
        if by is not None and population.added:
            after = f"{population.added} jobs added"
            self.work_queue.store.note("populated", by, reason, after=after, data={"force": force})
        return population

    def populate_all_queues(self, force: bool = False) -> _Awaitable:
        """Do one round; the answer can also be awaited."""
        return _Awaitable(self.populate(force))

    @property
    def last(self) -> Population:
        """The last round of any process.

        Raises:
            StoreUnavailable: not now.
        """
        return self.rounds.last()

    def health_check(self) -> dict[str, Any]:
        """Return is_healthy, message, last_populate_time and items_added_hour, over all processes."""
        return self.rounds.health()

    def _round(self, now: float, force: bool, send: bool) -> Population:
        try:
            wishes = list(self.plan())
        except CoordinatorError:
            raise
        except Exception as error:
            # The app's own code: its failure is told to whoever asks for the populator's health.
            logger.exception("[COORDINATOR] populator: the plan failed")
            text = f"the plan failed: {type(error).__name__}: {error}"
            return Population(now, error=text)
        sight = look(self.work_queue.ledger, wishes)
        decisions: list[Decision] = []
        for wish in wishes:
            if send and not self.work_queue.ledger.elect(NAME, holder(), TERM_MS):
                return Population(now, _added(decisions), tuple(decisions), "it took too long")
            decisions.append(self._decide(wish, sight, force, send))
        return Population(now, _added(decisions), tuple(decisions))

    def _decide(self, wish: Wish, sight: Sight, force: bool, send: bool) -> Decision:
        key = (wish.queue, wish.model)
        there = sight.present.get(key, 0)
        low = wish.depth if wish.low is None or force else min(wish.low, wish.depth)
        missing = wish.depth - there if there < low else 0

        def decided(code: str, reason: str, submitted: int = 0) -> Decision:
            sight.present[key] = there + submitted
            return Decision(*key, wish.task, there, wish.depth, submitted, code, reason)

        if missing <= 0:
            return decided("enough", wish.reason)
        if not force:
            store, now = self.work_queue.store, self.work_queue.ledger.clock()
            stopped = obstacle(wish, sight) or backing_off(store, wish, now)
            if stopped is not None:
                return decided(*stopped)
            if sight.probing.intersection(needs_of(wish)) or failed_in_a_row(store, wish)[0]:
                # A circuit breaker probes, or the last ones failed: one at a time.
                missing = 1 if there == 0 else 0
        submitted = 0
        try:
            for _ in range(missing):
                if send:
                    self.send(wish)
                submitted += 1
        except CoordinatorError as error:
            return decided("error", f"not accepted: {error}", submitted)
        return decided("filled" if submitted else "enough", wish.reason, submitted)


def _added(decisions: Sequence[Decision]) -> int:
    return sum(one.submitted for one in decisions)


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

"""The populator: keeps queues from running dry, without filling them for its own sake.

The app says what there should be (setting ``coordinator_populator``, a callable that returns wishes); the populator
compares that with what is pending or running, looks at what stands in the way, and submits the difference. What it
decided last, and why, is in the store: any process can tell.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coordinator.durations import shown_duration
from coordinator.errors import CoordinatorError, InvalidSetting, StoreUnavailable
from coordinator.holds import PANIC, hold_of, paused_text
from coordinator.ledger import Limit
from coordinator.resources import (
    SERIAL_RESOURCE,
    integration_resource,
    model_resource,
    queue_resource,
)
from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")

NAME = "populator"

#: Only one populator decides at a time, so that two never fill the same gap.
TERM_MS = 30_000

#: Jobs of a wish that must fail one after the other before it waits, and how long then, doubling, in seconds.
FAILURES, BACK_OFF_LEAST, BACK_OFF_MOST = 3, 30.0, 3600.0

#: Seconds between two notes of rounds that decided the same, and since the last round that count as unhealthy.
NOTE_SECONDS, SILENT_SECONDS = 10.0, 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """There should be ``depth`` pending or running jobs of this queue and model.

    Attributes:
        queue, model: what is to be kept filled; a model of None counts jobs without one.
        task, kwargs: what to submit.
        depth: jobs wanted, pending or running: the high water.
        reason: shown with the decision.
        low: nothing is submitted while there are so many or more: the low water; by default ``depth``.
        feeds: the queue that uses up what these jobs make: while that stands still, nothing is added.
        integration: what the task depends on, if anything.
    """

    queue: str
    model: str | None
    task: str
    kwargs: dict[str, Any]
    depth: int
    reason: str = ""
    low: int | None = None
    feeds: str | None = None
    integration: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one wish, and why.

    Attributes:
        queue, model, task: of the wish.
        present, wanted: jobs pending or running, and how many there should be.
        submitted: jobs that were added.
        code: ``filled``, ``enough``, ``paused``, ``panic``, ``no_worker``, ``limit``, ``consumer``,
            ``backing_off`` or ``error``.
        reason: in words.
    """

    queue: str
    model: str | None
    task: str
    present: int
    wanted: int
    submitted: int
    code: str
    reason: str


@dataclass(frozen=True)
class Population:
    """A round.

    Attributes:
        at: Unix seconds, 0 before the first.
        added: jobs that were submitted.
        decisions: what was decided about each wish.
        error: why it decided nothing, or "".
    """

    at: float = 0.0
    added: int = 0
    decisions: tuple[Decision, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Sight:
    """What a round sees before it decides."""

    present: dict[tuple[str, str | None], int]
    holds: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, Limit]
    consumed: set[str]
    probing: set[str] = field(default_factory=set)


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
        self.work_queue, self.plan, self.send, self._process = work_queue, plan, send, holder
        self._noted_at = 0.0

    def populate(self, force: bool = False, dry_run: bool = False) -> Population:
        """Do one round.

        Args:
            force: fill up to the high water whatever stands in the way: a pause, no worker, a consumer that
                stands still, failures of before.
            dry_run: whether only to tell what would be decided.

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
            return self._round(now, force, "")
        holder = f"{self._process}:{threading.get_ident()}"
        if not ledger.elect(NAME, holder, TERM_MS):
            return Population(now, error=f"{ledger.leader(NAME)} is deciding")
        try:
            population = self._round(now, force, holder)
            self._note(population)
        finally:
            ledger.resign(NAME, holder)
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
        return self._last()[0]

    def health_check(self) -> dict[str, Any]:
        """Return is_healthy, message, last_populate_time and items_added_hour, over all processes."""
        try:
            last, minutes = self._last()
        except StoreUnavailable as error:
            return _health(False, str(error), None, 0)
        added = sum(number for _, number in minutes)
        if not last.at:
            return _health(False, "there was no round yet; is beat running?", None, added)
        ago = time.time() - last.at
        message = last.error
        if ago > SILENT_SECONDS:
            message = f"no round for {shown_duration(ago)}; coordinator restart populator"
        stopped = [one for one in last.decisions if one.code not in ("filled", "enough")]
        said = message or "; ".join(f"{one.queue}: {one.reason}" for one in stopped[:5])
        return _health(not message, said or "all wishes are met", last.at, added)

    def _last(self) -> tuple[Population, list[list[float]]]:
        known = self.work_queue.store.conditions(NAME).get("last")
        if known is None:
            return Population(), []
        data = known.data
        hour_ago = time.time() - 3600
        minutes = [pair for pair in data["minutes"] if pair[0] > hour_ago]
        decisions = tuple(Decision(**one) for one in data["decisions"])
        return Population(data["at"], data["added"], decisions, data["error"]), minutes

    def _note(self, population: Population) -> None:
        last, minutes = self._last()
        same = (last.decisions, last.error) == (population.decisions, population.error)
        if same and not population.added and population.at - last.at < NOTE_SECONDS:
            return
        minute = population.at // 60 * 60
        if population.added:
            before = sum(number for at, number in minutes if at == minute)
            minutes = [pair for pair in minutes if pair[0] != minute]
            minutes.append([minute, before + population.added])
        data = {
            "at": population.at,
            "added": population.added,
            "decisions": [asdict(one) for one in population.decisions],
            "error": population.error,
            "minutes": minutes,
        }
        state = "failed" if population.error else "done"
        self.work_queue.store.set_condition(NAME, "last", state, int(population.at * 1000), data)

    def _round(self, now: float, force: bool, holder: str) -> Population:
        try:
            wishes = list(self.plan())
        except CoordinatorError:
            raise
        except Exception as error:
            # The app's own code: its failure is told to whoever asks for the populator's health.
            logger.exception("[COORDINATOR] populator: the plan failed")
            text = f"the plan failed: {type(error).__name__}: {error}"
            return Population(now, error=text)
        sight = self._look(wishes)
        decisions: list[Decision] = []
        for wish in wishes:
            if holder and not self.work_queue.ledger.elect(NAME, holder, TERM_MS):
                return Population(now, _added(decisions), tuple(decisions), "it took too long")
            decisions.append(self._decide(wish, sight, force, send=bool(holder)))
        return Population(now, _added(decisions), tuple(decisions))

    def _look(self, wishes: Sequence[Wish]) -> _Sight:
        ledger = self.work_queue.ledger
        needs = sorted({need for wish in wishes for need in _needs(wish)})
        holds, limits = ledger.holds(), ledger.limits(needs)
        probing = {need for need in needs if ledger.probing(need)}
        return _Sight(ledger.present(), holds, limits, ledger.consumed(), probing)

    def _decide(self, wish: Wish, sight: _Sight, force: bool, send: bool) -> Decision:
        key = (wish.queue, wish.model)
        there = sight.present.get(key, 0)
        low = wish.depth if wish.low is None or force else min(wish.low, wish.depth)
        missing = wish.depth - there if there < low else 0

        def decided(code: str, reason: str, submitted: int = 0) -> Decision:
            sight.present[key] = there + submitted
            return Decision(*key, wish.task, there, wish.depth, submitted, code, reason)

        if missing <= 0:
            return decided("enough", wish.reason)
        stopped = None if force else (_obstacle(wish, sight) or self._failing(wish))
        if stopped is not None:
            return decided(*stopped)
        if not force and (sight.probing.intersection(_needs(wish)) or self._failed(wish)):
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

    def _failed(self, wish: Wish) -> int:
        number, _ = self.work_queue.store.failures_in_a_row(wish.queue, wish.model, wish.task)
        return number if number >= FAILURES else 0

    def _failing(self, wish: Wish) -> tuple[str, str] | None:
        store, ledger = self.work_queue.store, self.work_queue.ledger
        number, last = store.failures_in_a_row(wish.queue, wish.model, wish.task)
        if number < FAILURES:
            return None
        pause = min(BACK_OFF_MOST, BACK_OFF_LEAST * 2.0 ** (number - FAILURES))
        left = pause - (ledger.clock() - last) / 1000
        if left <= 0:
            return None
        text = f"the last {number} jobs failed; tried again in {shown_duration(left)}; coordinator errors"
        return "backing_off", text


def _added(decisions: Sequence[Decision]) -> int:
    return sum(one.submitted for one in decisions)


def _health(healthy: bool, message: str, at: float | None, added: float) -> dict[str, Any]:
    return {
        "is_healthy": healthy,
        "message": message,
        "last_populate_time": at,
        "items_added_hour": int(added),
    }


def _needs(wish: Wish) -> list[str]:
    found = [queue_resource(wish.queue), SERIAL_RESOURCE]
    if wish.model is not None:
        found.append(model_resource(wish.model))
    if wish.integration is not None:
        found.append(integration_resource(wish.integration))
    return found


def _obstacle(wish: Wish, sight: _Sight) -> tuple[str, str] | None:
    """Return why nothing should be added for a wish now: its jobs would only wait, or pile up what they make."""
    for need in _needs(wish):
        if need in sight.holds:
            hold = hold_of(need, sight.holds[need])
            return "panic" if hold.source == PANIC else "paused", paused_text(hold)
        if sight.limits[need].value == 0:
            return "limit", f"{need} has a limit of 0; coordinator reset-limit {need}"
    if wish.queue not in sight.consumed:
        return "no_worker", f"queue {wish.queue} has no live worker; coordinator up"
    if wish.feeds is None:
        return None
    need = queue_resource(wish.feeds)
    if need in sight.holds:
        hold = hold_of(need, sight.holds[need])
        return "consumer", f"what it makes is not used up: {paused_text(hold)}"
    if wish.feeds not in sight.consumed:
        return "consumer", f"what it makes is not used up: queue {wish.feeds} has no live worker"
    return None


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

"""The populator: high and low water, what stops it, its consumers, back-off, two at once, what it tells."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.populator import Decision, QueuePopulator, Wish
from coordinator.work_queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def wish(depth: int = 2, model: str | None = "m", **more: Any) -> Wish:
    kwargs = {} if model is None else {"model": model}
    return Wish("work", model, "play", kwargs, depth, "more games", **more)


def populator(desk: Desk, *wishes: Wish) -> QueuePopulator:
    app = desk.installation.app

    def send(one: Wish) -> None:
        app.send_task(one.task, kwargs=one.kwargs, queue=one.queue)

    return QueuePopulator(desk.queue, lambda: wishes, send)


def only(decisions: tuple[Decision, ...]) -> Decision:
    (decision,) = decisions
    return decision


def test_it_tops_up_to_the_high_water_once_below_the_low_water(desk: Desk) -> None:
    own = populator(desk, wish(4, low=2))
    assert only(own.populate(dry_run=True).decisions).submitted == 4
    assert desk.queue.get_pending_count() == 0
    assert own.populate().added == 4
    ids = desk.ledger.waiting(10)
    for number, job_id in enumerate(ids[:2], 1):
        desk.queue.cancel_job(job_id)
        assert own.populate().added == 0, number
    assert only(own.populate(force=True).decisions).submitted == 2, (
        "force goes up to the high water"
    )
    for job_id in desk.ledger.waiting(10)[:3]:
        desk.queue.cancel_job(job_id)
    assert only(own.populate().decisions) == Decision(
        "work", "m", "play", 1, 4, 3, "filled", "more games"
    )


@pytest.mark.parametrize(
    ("stop", "code", "reason"),
    [
        (lambda q: q.pause("work", by="ann"), "paused", "queue work is paused by ann"),
        (lambda q: q.pause(model="m"), "paused", "model m is paused"),
        (lambda q: q.pause(integration="db"), "paused", "integration db is paused"),
        (lambda q: q.open_panic("queue:work"), "panic", "queue work is paused by panic:"),
        (lambda q: q.emergency_stop(), "panic", "everything is paused by panic:"),
        (lambda q: q.limit("model:m", 0), "limit", "model:m has a limit of 0"),
        (lambda q: q.limit("queue:work", 0), "limit", "coordinator reset-limit queue:work"),
        (lambda q: q.pause("training"), "consumer", "not used up: queue training is paused"),
        (lambda q: q.ledger.leave("w/here/1/1"), "no_worker", "queue work has no live worker"),
    ],
)
def test_nothing_is_added_that_would_only_block(
    desk: Desk, stop: Callable[[WorkQueue], Any], code: str, reason: str
) -> None:
    own = populator(desk, wish(feeds="training", integration="db"))
    stop(desk.queue)
    decision = only(own.populate().decisions)
    assert (decision.code, decision.submitted) == (code, 0)
    assert reason in decision.reason
    assert own.populate(force=True).added == 2


def test_nothing_is_made_for_a_queue_that_nobody_works_off(desk: Desk) -> None:
    own = populator(desk, wish(feeds="selfplay"))
    assert only(own.populate().decisions).code == "consumer"


def test_a_wish_whose_jobs_fail_backs_off_and_is_tried_one_at_a_time(
    desk: Desk, alone: Installation
) -> None:
    own = populator(desk, wish(3), wish(1, "other"))
    for _ in range(3):
        desk.fail("broken", "m")
    desk.record()
    first, second = own.populate().decisions
    assert (first.code, first.submitted, second.code) == ("backing_off", 0, "filled")
    assert first.reason.startswith("the last 3 jobs failed; tried again in 30s")
    jobs = desk.queue.store.schema.jobs
    with desk.queue.store.writing() as connection:
        # Half a minute later.
        connection.execute(jobs.update().values(finished_at=jobs.c.finished_at - 31_000))
    assert own.populate().decisions[0].submitted == 1
    (job_id,) = [one.job_id for one in desk.queue.get_jobs(model="m", status="PENDING")]
    assert own.populate().decisions[0].submitted == 0
    desk.end(job_id)
    desk.record()
    assert own.populate().decisions[0].submitted == 3, "one that succeeds ends it"


def test_a_breaker_that_probes_gets_one_job_at_a_time(desk: Desk) -> None:
    own = populator(desk, wish(3))
    desk.queue.open_panic("queue:work")
    desk.queue.close_panic("queue:work", probe=True)
    assert own.populate().added == 1
    assert own.populate().added == 0


def test_two_at_once_fill_a_gap_once(desk: Desk, alone: Installation) -> None:
    wishes = [wish(3, f"m{number}") for number in range(5)]
    start = threading.Barrier(4)

    def go() -> None:
        start.wait()
        for _ in range(5):
            populator(desk, *wishes).populate()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert populator(desk, *wishes).populate().added == 0
    assert desk.queue.get_pending_count() == 15


def test_whoever_comes_second_says_who_decides(desk: Desk) -> None:
    assert desk.ledger.elect("populator", "there:2:3", 60_000)
    done = populator(desk, wish()).populate()
    assert (done.added, done.error) == (0, "there:2:3 is deciding")


def test_jobs_that_were_added_are_told_when_redis_goes_away_at_the_end(
    open_desk: type[Desk], open_installation: type[Installation], redis_url: str, tmp_path: Path
) -> None:
    # On a Redis of its own: it goes away for all who use it.
    desk = open_desk(open_installation(redis_url, tmp_path))
    app, redis = desk.installation.app, desk.ledger.redis

    def send(one: Wish) -> None:
        app.send_task(one.task, kwargs=one.kwargs, queue=one.queue)
        redis.execute_command("REPLICAOF", "127.0.0.1", "1")

    desk.ledger.patience = 0.1
    try:
        own = QueuePopulator(desk.queue, lambda: [wish(1)], send)
        assert own.populate().added == 1
    finally:
        redis.execute_command("REPLICAOF", "NO", "ONE")
    assert own.last.added == 1


def test_its_health_and_last_decision_are_known_to_every_process(desk: Desk) -> None:
    own, other = populator(desk, wish()), populator(desk, wish())
    health = other.health_check()
    assert (health["is_healthy"], health["last_populate_time"]) == (False, None)
    own.populate()
    health = other.health_check()
    assert health["is_healthy"]
    assert health["items_added_hour"] == 2
    assert health["last_populate_time"] == other.last.at
    assert only(other.last.decisions).submitted == 2
    desk.queue.pause("work", by="ann")
    desk.queue.clear_all("work")
    own.populate()
    assert "queue work is paused by ann" in other.health_check()["message"]
    assert other.health_check()["items_added_hour"] == 2


def test_a_plan_that_fails_is_told_and_harms_nothing(desk: Desk) -> None:
    def plan() -> list[Wish]:
        raise KeyError("no such model")

    own = QueuePopulator(desk.queue, plan, print)
    assert own.populate().error == "the plan failed: KeyError: 'no such model'"
    health = own.health_check()
    assert not health["is_healthy"]
    assert "the plan failed" in health["message"]


def test_a_ledger_that_is_being_restored_is_not_filled(desk: Desk, alone: Installation) -> None:
    """What is not entered yet would be submitted a second time."""
    own = populator(desk, wish())
    alone.redis.flushdb()
    assert own.populate().error == "the ledger is being restored"
    assert own.populate(dry_run=True).decisions == ()


def test_a_job_that_is_refused_does_not_stop_the_others(desk: Desk) -> None:
    own = populator(desk, Wish("work", "a b", "play", {"model": "a b"}, 1), wish(1))
    first, second = own.populate().decisions
    assert (first.code, second.code) == ("error", "filled")
    assert "not accepted: models: 'a b' is not allowed" in first.reason


def test_it_can_be_awaited(desk: Desk) -> None:
    own = populator(desk, wish())

    async def ask() -> int:
        done = await own.populate_all_queues(force=True)
        return int(done.added)

    assert asyncio.run(ask()) == 2
    assert own.populate_all_queues().added == 0

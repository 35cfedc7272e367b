"""Pauses: nothing starts after one returned, and it outlives workers, processes and a wiped Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import InvalidValue, LedgerUnavailable
from coordinator.operations.holds import CONFIGURATION, paused_by, way_out
from coordinator.work_queue import WorkQueue
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def test_a_dispatched_message_does_not_start_after_the_pause(desk: Desk) -> None:
    """It is on its way to a worker already; the claim is refused, and it waits at its old place."""
    first, second = desk.send("m"), desk.send("m")
    token = desk.token(first)
    desk.queue.pause("work", reason="upgrade", by="ann")
    assert desk.ledger.claim(first, token, "n", desk.worker).answer == "held"
    assert (desk.state(first), desk.state(second)) == ("waiting", "waiting")
    assert desk.ledger.holders("model:m") == set()
    why = desk.queue.why(first)
    assert why.reason.startswith("queue work is paused by ann since ")
    assert why.remedy == "coordinator resume work"
    assert desk.queue.resume("work")
    assert desk.state(first) == "dispatched"
    assert not desk.queue.resume("work")


def test_a_real_worker_does_not_start_what_it_fetches_after_the_pause(desk: Desk) -> None:
    job_id = desk.send("m")
    assert desk.state(job_id) == "dispatched"
    desk.queue.pause("work", by="ann")
    with desk.installation.worker(concurrency=1):
        eventually(lambda: desk.state(job_id) == "waiting", 30)
        assert desk.installation.runs(job_id) == 0
        desk.queue.resume("work", by="ann")
        eventually(lambda: desk.installation.runs(job_id) == 1, 30)


@pytest.mark.parametrize("what", ["queue", "model", "org", "integration", None])
def test_everything_that_is_needed_can_be_paused(desk: Desk, what: str | None) -> None:
    names = {"queue": "work", "model": "m", "org": "acme", "integration": "db"}
    given: dict[str, Any] = {what: names[what]} if what else {}
    desk.queue.pause(**given)
    job_id = desk.send("m", org="acme", integration="db")
    other = desk.send("n", queue="training")
    assert desk.state(job_id) == "waiting"
    assert desk.state(other) == ("dispatched" if what else "waiting")
    (obstacle,) = [one for one in desk.queue.why(job_id).obstacles if one.code == "held"]
    assert way_out(obstacle.resource) == desk.queue.why(job_id).remedy
    desk.queue.resume(**given)
    assert desk.state(job_id) == "dispatched"


def test_a_pause_outlives_a_wiped_redis_also_when_nothing_runs(
    desk: Desk, alone: Installation
) -> None:
    until = desk.ledger.clock() + 3_600_000
    desk.queue.pause("training", reason="GPU", by="ann", until_ms=until)
    desk.queue.pause(model="m", by="bob")
    desk.queue.resume(model="m", by="bob")
    (before,) = desk.queue.get_holds()
    alone.redis.flushdb()
    again = WorkQueue(alone.app.coordination.settings)
    again.wait_until_open()
    (after,) = again.get_holds()
    assert (after.resource, after.by, after.reason) == ("queue:training", "ann", "GPU")
    assert after.until == before.until == until / 1000
    assert after.since == pytest.approx(before.since, abs=1)
    again.ledger.pool.disconnect()


def test_a_pause_ends_by_itself(desk: Desk) -> None:
    job_id = desk.send("m")
    desk.queue.pause("work", until_ms=desk.ledger.clock() + 3_600_000)
    desk.ledger.claim(job_id, desk.token(job_id), "n", desk.worker)
    desk.ledger.redis.hset(f"{desk.ledger.prefix}meta", "clock_offset", 3_700_000)
    desk.ledger.tick()
    assert desk.queue.get_holds() == []
    with pytest.raises(InvalidValue, match="a moment to come"):
        desk.queue.pause("work", until_ms=1)


def test_a_queue_starts_paused_when_it_is_first_seen_and_never_again(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    alone.conf["coordinator_queues"] = {"training": {"paused": True}}
    desk = open_desk(alone)
    desk.queue.configure()
    (hold,) = desk.queue.get_holds()
    assert (hold.resource, hold.source) == ("queue:training", CONFIGURATION)
    assert paused_by(hold).startswith("by configuration since ")
    assert desk.queue.resume("training")
    desk.queue.configure()
    assert desk.queue.get_holds() == []
    alone.redis.flushdb()
    desk.queue.wait_until_open()
    desk.queue.configure()
    assert desk.queue.get_holds() == []


def test_a_queue_that_could_not_be_paused_when_it_was_first_seen_is_paused_later(
    alone: Installation,
    open_desk: Callable[[Installation], Desk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone.conf["coordinator_queues"] = {"training": {"paused": True}}
    desk = open_desk(alone)

    def away(*_: Any) -> None:
        raise LedgerUnavailable("Redis went away")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(desk.ledger, "hold", away)
        with pytest.raises(LedgerUnavailable):
            desk.queue.configure()
    assert desk.queue.get_holds() == []
    desk.queue.configure()
    assert [hold.source for hold in desk.queue.get_holds()] == [CONFIGURATION]


@pytest.mark.parametrize(
    "wrong",
    [{"queue": "trainig"}, {"model": ""}, {"org": "a b"}, {"queue": "work", "model": "m"}],
)
def test_what_cannot_be_paused(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        desk.queue.pause(**wrong)
    assert desk.queue.get_holds() == []


def test_catching_up_does_not_wait_for_nothing(desk: Desk) -> None:
    assert desk.queue.catch_up()
    began = time.monotonic()
    assert desk.queue.catch_up()
    assert time.monotonic() - began < 1
    assert desk.ledger.leader("recorder") is None, "the term is given back"

"""The reservation: a job of several models starts within a bound, and nobody idles for it without need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.verification import verify
from tests.ledger_driver import Driver

AFTER = 10_000


@pytest.fixture
def at(redis_url: str) -> Iterator[Driver]:
    driver = Driver(redis_url)
    driver.ledger.configure({"reservation_ms": str(AFTER), "unknown_ms": "1000"})
    yield driver
    assert not verify(driver.ledger)


def _reserved(at: Driver) -> str | None:
    found = at.ledger.redis.hget(f"{at.ledger.prefix}reservation", "job")
    return None if found is None else str(found)


def _stream(at: Driver, rounds: int) -> int | None:
    """Keep three models busy one by one, always another being free; return the round in which wide starts."""
    running = {}
    for model in ("a", "b", "c"):
        at.submit(f"{model}-first", model)
        running[model] = (f"{model}-first", at.start(f"{model}-first"))
    at.submit("wide", "a", "b", "c")
    for number in range(rounds):
        for model in ("a", "b", "c"):
            job_id, token = running[model]
            following = f"{model}-{number}"
            at.submit(following, model)
            at.shift(300)
            at.ledger.renew("w", ("q",), 10)
            at.ledger.tick()
            if job_id:
                at.ledger.finish(job_id, token, "completed")
            if at.state("wide") != "waiting":
                return number
            running[model] = ("", 0)
            if at.state(following) == "dispatched":
                running[model] = (following, at.start(following))
    return None


def test_a_stream_of_small_jobs_delays_a_wide_one_for_a_bounded_time(at: Driver) -> None:
    at.work(slots=10)
    started = _stream(at, rounds=100)
    assert started is not None
    # Each round takes 0.9 s: after the threshold it takes no longer than its models take to come free.
    assert started * 900 <= AFTER + 3 * 900 + 1000


def test_without_reservation_the_same_stream_starves_it(at: Driver) -> None:
    at.ledger.configure({"reservation_ms": "1000000000", "reservation_passes": "1000000000"})
    at.work(slots=10)
    assert _stream(at, rounds=40) is None


def test_jobs_that_end_before_the_reserved_one_can_start_go_on(at: Driver) -> None:
    at.work(slots=10)
    at.submit("day", "a")
    day = at.start("day")
    at.submit("wide", "a", "b")
    # "day" has been running for an hour: it is taken to go on for another.
    at.ledger.tick()
    at.shift(3_600_000)
    at.ledger.tick()
    assert _reserved(at) == "wide"
    at.submit("short", "b")
    assert at.state("short") == "dispatched"
    at.ledger.finish("short", at.start("short"), "completed")
    at.ledger.finish("day", day, "completed")
    at.ledger.tick()
    assert at.state("wide") == "dispatched"
    assert _reserved(at) is None


def test_a_job_that_would_delay_the_reserved_one_waits_and_says_so(at: Driver) -> None:
    at.work(slots=10)
    at.submit("first", "a")
    token = at.start("first")
    at.submit("wide", "a", "b")
    at.shift(AFTER + 1)
    at.ledger.renew("w", ("q",), 10)
    at.ledger.configure({"unknown_ms": "100000000"})
    at.ledger.tick()
    at.submit("late", "b")
    assert at.state("late") == "waiting"
    parked = at.ledger.waits("late")
    assert parked is not None
    assert [(item.resource, item.code) for item in parked.obstacles] == [("model:b", "reserved")]
    at.ledger.finish("first", token, "completed")
    assert at.state("wide") == "dispatched"
    assert at.state("late") == "waiting"


@pytest.mark.parametrize("how", ["cancel", "hold", "no workers"])
def test_the_reservation_is_dropped(at: Driver, how: str) -> None:
    at.work(slots=10)
    at.submit("first", "a")
    at.start("first")
    at.submit("wide", "a", "b")
    at.shift(AFTER + 1)
    at.ledger.renew("w", ("q",), 10)
    at.ledger.tick()
    assert _reserved(at) == "wide"
    if how == "cancel":
        at.ledger.cancel("wide", "why", "me")
    elif how == "hold":
        at.ledger.hold("queue:q", "me")
    else:
        at.ledger.leave("w")
    at.ledger.tick()
    assert _reserved(at) is None


@pytest.mark.parametrize("how", ["cancel", "drain", "expire"])
def test_whom_a_dropped_reservation_kept_waiting_starts(at: Driver, how: str) -> None:
    at.ledger.configure({"unknown_ms": "100000000"})
    at.work(slots=10)
    at.submit("first", "a")
    token = at.start("first")
    at.submit("wide", "a", "b", expires_ms=at.now() + AFTER + 1000 if how == "expire" else 0)
    at.shift(AFTER + 1)
    at.ledger.renew("w", ("q",), 10, hand=[("first", token)])
    at.ledger.tick()
    assert _reserved(at) == "wide"
    assert at.submit("late", "b") == "waiting"
    if how == "cancel":
        at.ledger.cancel("wide", "why", "me")
    elif how == "drain":
        at.ledger.drain(["wide"], at.now() + 1_000_000, "why", "me")
    else:
        at.shift(1000)
        at.ledger.tick()
    assert at.state("late") == "dispatched"


def test_what_the_reservation_left_free_is_handed_on_when_its_job_starts(at: Driver) -> None:
    at.ledger.configure({"unknown_ms": "100000000"})
    at.ledger.limit("model:b", 2, "me")
    at.work(slots=10)
    at.submit("first", "a")
    token = at.start("first")
    at.submit("wide", "a", "b")
    at.shift(AFTER + 1)
    at.ledger.renew("w", ("q",), 10, hand=[("first", token)])
    at.ledger.tick()
    assert at.submit("late", "b") == "waiting"
    at.ledger.finish("first", token, "completed")
    assert (at.state("wide"), at.state("late")) == ("dispatched", "dispatched")


def test_jobs_of_a_paused_queue_hide_nobody_from_the_reservation(at: Driver) -> None:
    at.work(queues=("paused", "q"), slots=20)
    at.ledger.hold("queue:paused", "me")
    for number in range(10):
        at.submit(f"paused{number}", f"c{number}", f"d{number}", queue="paused")
    at.submit("first", "a")
    token = at.start("first")
    at.submit("wide", "a", "b")
    at.shift(AFTER + 1)
    at.ledger.renew("w", ("paused", "q"), 20, hand=[("first", token)])
    for _ in range(5):
        at.ledger.tick()
    assert _reserved(at) == "wide"
    at.ledger.resume("queue:paused", "me")


def test_how_often_a_job_was_passed_is_forgotten_when_it_starts(at: Driver) -> None:
    at.work(slots=10)
    at.submit("first", "a")
    at.submit("wide", "a", "b")
    for number in range(3):
        at.submit(f"small{number}", "b")
        at.ledger.finish(f"small{number}", at.start(f"small{number}"), "completed")
    assert at.state("wide", "passed") == "3"
    at.ledger.finish("first", at.start("first"), "completed")
    assert at.state("wide") == "dispatched"
    assert at.state("wide", "passed") == "gone"

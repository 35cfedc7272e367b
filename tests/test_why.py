"""Why a job does not run: all that stops it, in the order in which it is lifted."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from coordinator.operations.why import explain
from tests.ledger_driver import Driver

MINUTE = 60_000


@pytest.fixture
def at(redis_url: str) -> Iterator[Driver]:
    driver = Driver(redis_url)
    yield driver
    driver.ledger.pool.disconnect()


def test_everything_that_stops_a_job_is_named_with_its_holders(at: Driver) -> None:
    at.work(slots=1)
    at.submit("a", "m")
    at.start("a")
    at.submit("b", "m", "n")
    at.ledger.hold("model:n", "ann", "retraining", until_ms=at.now() + MINUTE)
    why = explain(at.ledger, "b")
    assert why is not None
    assert [(item.resource, item.code) for item in why.obstacles] == [
        ("model:m", "full"),
        ("model:n", "held"),
        ("queue:q", "no-slot"),
    ]
    (holder,) = why.obstacles[0].holders
    assert (holder.id, holder.worker, holder.state) == ("a", "w", "running")
    assert why.obstacles[1].hold is not None
    assert (why.obstacles[1].hold["by"], why.obstacles[1].hold["reason"]) == ("ann", "retraining")
    assert (why.code, why.resource, why.position) == ("full", "model:m", 1)
    assert why.reason == "Model conflict: m in use by normal job a"
    assert why.remedy == "wait for the end of a"
    # Held for a while: nobody can say when.
    assert why.expected_start_ms is None


def test_a_queue_without_workers_says_so(at: Driver) -> None:
    at.submit("a", "m")
    why = explain(at.ledger, "a")
    assert why is not None
    assert (why.code, why.reason) == ("no-worker", "Queue q has no live worker")
    assert why.remedy == "coordinator up, or a worker of your app with -Q q"


def test_the_expected_start_follows_run_times_and_place(at: Driver) -> None:
    at.work(slots=5)
    at.submit("warm", "x")
    token = at.start("warm")
    at.ledger.tick()
    at.shift(20_000)
    at.ledger.tick()
    at.ledger.finish("warm", token, "completed")
    at.submit("a", "m")
    at.start("a")
    for job_id in ("b", "c", "d"):
        at.submit(job_id, "m")
    now = at.now()
    starts = []
    for job_id in ("b", "c", "d"):
        why = explain(at.ledger, job_id)
        assert why is not None
        assert why.expected_start_ms is not None
        starts.append((why.expected_start_ms - now) / 20_000)
    assert starts == pytest.approx([1, 2, 3], abs=0.1)


def test_positions_are_the_order_in_which_jobs_start(at: Driver) -> None:
    """A replay: what was said while they waited is what happened."""
    at.work(slots=50)
    at.submit("first", "m")
    names = [f"j{number}" for number in range(12)]
    for number, name in enumerate(names):
        at.submit(name, "m", queue="q", task=f"task{number % 3}")
    said = {name: getattr(explain(at.ledger, name), "position", None) for name in names}
    started = []
    running = "first"
    for _ in names:
        at.ledger.finish(running, at.start(running), "completed")
        (running,) = [name for name in names if at.state(name) == "dispatched"]
        started.append(running)
    assert started == sorted(names, key=lambda name: said[name] or 0)
    assert [said[name] for name in started] == list(range(1, 13))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("on", ["model", "queue"])
def test_positions_of_several_orgs_are_the_order_in_which_they_start(
    at: Driver, on: str, seed: int
) -> None:
    """Replayed: with turns, weights and priorities, jobs start in the order of the positions stated before."""
    draw = random.Random(seed)
    at.work(slots=1)
    at.ledger.weigh("two", 2, "ann")
    at.ledger.weigh("three", 3, "ann")
    at.submit("first", "m")
    token = at.start("first")
    names = [f"j{number}" for number in range(24)]
    for name in names:
        model = "m" if on == "model" else f"m of {name}".replace(" ", "-")
        org = draw.choice(["one", "two", "three", None])
        at.submit(name, model, org=org, priority=draw.choice([5, 5, 5, 0, 9]))
    # Turns that were taken before count as well.
    order = ["first"]
    for _ in range(5):
        at.ledger.finish(order[-1], token, "completed")
        order.append(next(name for name in names if at.state(name) == "dispatched"))
        token = at.start(order[-1])
    waiting = [name for name in names if name not in order]
    stated = {name: at.ledger.waits(name) for name in waiting}
    positions = {name: waits.position for name, waits in stated.items() if waits is not None}
    assert sorted(positions.values()) == list(range(1, len(waiting) + 1))
    started: list[str] = []
    while len(started) < len(waiting):
        at.ledger.finish([*order, *started][-1], token, "completed")
        (name,) = (name for name in waiting if at.state(name) == "dispatched")
        started.append(name)
        token = at.start(name)
    assert started == sorted(waiting, key=positions.__getitem__)


def test_the_position_at_submission_is_the_one_that_is_stated_later(at: Driver) -> None:
    at.work(slots=1)
    at.submit("first", "m")
    jobs = [at.job(f"j{n}", "m", org=["one", "two"][n % 2]) for n in range(45)]
    for admission in at.ledger.submit(jobs):
        waits = at.ledger.waits(admission.job_id)
        assert waits is not None
        # Those submitted after it may take turns of their org before it, never more than it said.
        assert admission.position is not None
        assert admission.position <= waits.position
    last = at.ledger.waits("j44")
    assert last is not None
    assert last.position == 45


def test_jobs_that_do_not_wait(at: Driver) -> None:
    at.work()
    at.submit("later", "m", due_ms=at.now() + MINUTE)
    at.submit("now", "n")
    later, now = explain(at.ledger, "later"), explain(at.ledger, "now")
    assert later is not None
    assert now is not None
    assert (later.code, now.code) == ("delayed", "dispatched")
    assert later.expected_start_ms is not None
    assert explain(at.ledger, "nobody") is None


def test_the_position_among_too_many_to_count_counts_the_jobs_of_the_same_call(at: Driver) -> None:
    at.work()
    at.submit("first", "m")
    at.ledger.submit([at.job(f"a{number}", "m", f"x{number}") for number in range(60)])
    answers = at.ledger.submit([at.job(f"b{number}", "m", f"y{number}") for number in range(5)])
    assert [answer.position for answer in answers] == [61, 62, 63, 64, 65]

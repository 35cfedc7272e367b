"""Owners: what a workflow's execution holds from its first job to its last is free for its own jobs alone."""

from __future__ import annotations

import random

from coordinator.ledger import Ledger
from coordinator.verification import verify
from tests.ledger_driver import Driver, at

__all__ = ["at"]

OWNER = "workflow-1"


def end(at: Driver, job_id: str) -> None:
    assert at.ledger.finish(job_id, at.start(job_id), "completed").answer == "done"


def test_an_owner_keeps_its_models_between_its_jobs(at: Driver) -> None:
    at.work()
    assert at.submit("first", "a", "b", owner=OWNER) == "dispatched"
    end(at, "first")
    assert at.ledger.owned(OWNER) == {"model:a", "model:b", "serial"}
    assert at.ledger.holders("model:a") == {OWNER}
    assert at.submit("other", "a") == "waiting"
    assert at.submit("second", "b", owner=OWNER) == "dispatched"
    end(at, "second")
    assert not verify(at.ledger)
    assert at.ledger.disown(OWNER) == ("other",)
    assert at.ledger.disown(OWNER) == ()
    assert at.state("other") == "dispatched"
    assert at.ledger.owned(OWNER) == set()


def test_an_owner_waits_for_a_job_and_a_job_for_an_owner(at: Driver) -> None:
    at.work()
    at.submit("job", "a")
    assert at.submit("step", "a", "b", owner=OWNER) == "waiting"
    assert at.ledger.owned(OWNER) == set(), "all or nothing"
    end(at, "job")
    assert at.state("step") == "dispatched"
    at.submit("late", "b")
    waits = at.ledger.waits("late")
    assert waits is not None
    (obstacle,) = waits.obstacles
    assert [holder.id for holder in obstacle.holders] == [OWNER]


def test_jobs_of_one_owner_run_side_by_side(at: Driver) -> None:
    """Of a group, those behind a stranger do not wait for the stranger: he waits for their owner."""
    at.work()
    at.submit("before", "a")
    for name in ("one", "two"):
        at.submit(name, "a", owner=OWNER)
    at.submit("stranger", "a")
    at.submit("three", "a", "b", owner=OWNER)
    end(at, "before")
    assert {name: at.state(name) for name in ("one", "two", "three", "stranger")} == {
        "one": "dispatched",
        "two": "dispatched",
        "three": "dispatched",
        "stranger": "waiting",
    }
    assert not verify(at.ledger)


def test_in_serialized_mode_an_owner_is_one_job(at: Driver) -> None:
    at.ledger.configure({"serial": "1"})
    at.work()
    at.submit("first", "a", owner=OWNER)
    end(at, "first")
    assert at.submit("other", "b") == "waiting"
    assert at.submit("second", "a", owner=OWNER) == "dispatched"


def test_the_next_step_goes_on_though_its_models_are_reserved(at: Driver) -> None:
    """A wide job waits for what the owner holds: keeping the owner's next step from it would be for ever."""
    at.ledger.configure({"reservation_ms": "30000", "unknown_ms": "100000000"})
    at.work()
    at.submit("first", "a", owner=OWNER)
    token = at.start("first")
    at.submit("wide", "a", "b")
    at.shift(31_000)
    at.ledger.renew("w", ("q",), 10, hand=[("first", token)])
    at.ledger.tick()
    assert at.ledger.redis.hget("t:reservation", "job") == "wide"
    at.shift(1)
    assert at.submit("late", "b") == "waiting", "a stranger would delay it"
    assert at.ledger.finish("first", token, "completed").answer == "done"
    assert at.submit("second", "a", "b", owner=OWNER) == "dispatched"
    end(at, "second")
    assert "wide" in at.ledger.disown(OWNER)


def test_a_queue_that_is_held_stops_the_next_step_and_not_the_others(at: Driver) -> None:
    at.work(queues=("q", "r"))
    at.submit("first", "a", owner=OWNER)
    end(at, "first")
    at.ledger.hold("queue:r", "ann", "maintenance")
    assert at.submit("second", "a", queue="r", owner=OWNER) == "waiting"
    waits = at.ledger.waits("second")
    assert waits is not None
    assert [(item.resource, item.code) for item in waits.obstacles] == [("queue:r", "held")]
    assert at.submit("other", "b") == "dispatched"


def test_a_paused_model_stops_its_owner_until_it_is_resumed(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    at.submit("stranger", "a")
    end(at, "first")
    at.ledger.hold("model:a", "ann")
    assert at.submit("second", "a", owner=OWNER) == "waiting"
    at.ledger.resume("model:a", "ann")
    assert (at.state("second"), at.state("stranger")) == ("dispatched", "waiting")
    assert not verify(at.ledger)


def test_any_order_of_steps_of_many_owners(at: Driver) -> None:
    """Random: never two owners on one model, and everything ends."""
    draw = random.Random(11)
    ledger: Ledger = at.ledger
    at.work(slots=3)
    left = {f"workflow-{number}": draw.randrange(1, 4) for number in range(12)}
    models = {owner: draw.sample("abcd", draw.choice([1, 1, 2])) for owner in left}
    waiting: dict[str, str] = {}
    running: dict[str, tuple[str, int]] = {}
    number = 0
    for owner in left:
        ledger.submit([at.job(f"{owner}-0", *models[owner], owner=owner)])
        waiting[f"{owner}-0"] = owner
    for number in range(200):
        for job_id in [name for name in waiting if at.state(name) == "dispatched"]:
            running[job_id] = (waiting.pop(job_id), at.start(job_id))
        if not running:
            break
        job_id = draw.choice(sorted(running))
        owner, token = running.pop(job_id)
        for model in models[owner]:
            assert ledger.holders(f"model:{model}") == {owner}
        ledger.finish(job_id, token, "completed")
        left[owner] -= 1
        if left[owner] == 0:
            ledger.disown(owner)
        else:
            step = f"{owner}-{number + 1}"
            ledger.submit([at.job(step, draw.choice(models[owner]), owner=owner)])
            waiting[step] = owner
        assert not verify(ledger)
    assert set(left.values()) == {0}


def test_a_paused_model_stops_its_owner_no_longer_than_that_however_many_owners_wait(
    at: Driver,
) -> None:
    at.work(slots=100)
    at.submit("busy", "b")
    for number in range(60):
        at.submit(f"other{number}", "b", owner=f"workflow-other-{number}")
    at.submit("first", "a", owner=OWNER)
    at.submit("stranger", "a")
    end(at, "first")
    at.ledger.hold("model:a", "ann")
    at.submit("second", "a", owner=OWNER)
    at.ledger.resume("model:a", "ann")
    assert (at.state("second"), at.state("stranger")) == ("dispatched", "waiting")


def test_an_owner_the_reserved_job_waits_for_goes_before_a_stranger(at: Driver) -> None:
    """Else all would wait for each other: he for a stranger, that for the reserved job, and that for him."""
    at.ledger.configure({"reservation_ms": "30000", "unknown_ms": "60000"})
    at.redis.hset("t:runtimes", mapping={"short": "1", "long": "1000000000"})
    at.work(slots=20)
    tokens = {}
    for model in ("a", "b"):
        at.submit(f"first-{model}", model)
        tokens[model] = at.start(f"first-{model}")
    at.submit("wide", "a", "b")
    at.shift(31_000)
    hand = [(f"first-{model}", token) for model, token in tokens.items()]
    at.ledger.renew("w", ("q",), 20, hand=hand)
    at.ledger.tick()
    assert at.ledger.redis.hget("t:reservation", "job") == "wide"
    at.submit("stranger", "a", task="long")
    at.submit("step", "a", owner=OWNER, task="long")
    at.submit("short", "b", owner=OWNER, task="short")
    at.ledger.finish("first-b", tokens["b"], "completed")
    end(at, "short")
    at.ledger.finish("first-a", tokens["a"], "completed")
    at.ledger.tick()
    assert (at.state("step"), at.state("stranger")) == ("dispatched", "waiting")


def test_a_job_that_went_with_its_owner_is_not_tried_again_in_its_turn(at: Driver) -> None:
    """Two resources are woken at once, and the turn on one lets the next in turn on the other go."""
    at.work(slots=1000)
    for model in ("a", "b"):
        at.ledger.limit(f"model:{model}", 1000, "me")
    at.submit("first", "b", owner=OWNER)
    end(at, "first")
    for model in ("a", "b"):
        at.ledger.hold(f"model:{model}", "me")
    for number in range(90):
        at.submit(f"a{number}", "a", f"c{number}")
        at.submit(f"b{number}", "b", f"d{number}")
    at.submit("turn", "a", owner=OWNER)
    at.submit("kin", "b", "e", owner=OWNER)
    for model in ("a", "b"):
        at.ledger.resume(f"model:{model}", "me")
    assert at.redis.smembers("t:wakes") == {"model:a", "model:b"}
    for _ in range(3):
        at.ledger.tick()
    assert not [name for name in ("turn", "kin", "a89", "b89") if at.state(name) != "dispatched"]

"""Owners: what a workflow's execution holds from its first job to its last is free for its own jobs alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from coordinator.ledger import Ledger
from coordinator.states import State
from coordinator.store import StoredJob
from coordinator.verification import verify
from tests.ledger_driver import LEASE, Driver, at

__all__ = ["at"]

OWNER = "workflow-1"


def end(
    at: Driver, job_id: str, *following: str, keep_ms: int | None = None, **more: Any
) -> tuple[str, ...]:
    """End a run, begun here or before; ``following`` are the next step's id and models.

    Returns:
        What was dispatched.
    """
    token = at.start(job_id) if at.state(job_id) == "dispatched" else at.token(job_id)
    successor = at.job(*following, owner=OWNER, **more) if following else None
    finish = at.ledger.finish(job_id, token, "completed", {}, successor, "{}", keep_ms=keep_ms)
    assert finish.answer == "done"
    # Said again, since its reply was lost.
    again = at.ledger.finish(job_id, token, "completed", {}, successor, "{}", keep_ms=keep_ms)
    assert again.answer == "again"
    return finish.started


def test_an_owner_keeps_its_models_between_its_jobs(at: Driver) -> None:
    at.work()
    assert at.submit("first", "a", "b", owner=OWNER) == "dispatched"
    assert at.submit("other", "a") == "waiting"
    assert end(at, "first", "second", "b") == ("second",)
    assert at.ledger.owned(OWNER) == {"model:a", "model:b", "serial"}
    assert at.ledger.holders("model:a") == {OWNER}
    assert not verify(at.ledger)
    assert end(at, "second") == ("other",)
    assert at.state("other") == "dispatched"
    assert at.ledger.owned(OWNER) == at.ledger.members(OWNER) == set()


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
    assert at.submit("other", "b") == "waiting"
    assert end(at, "first", "second", "a") == ("second",)
    assert end(at, "second") == ("other",)


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
    second = at.job("second", "a", "b", owner=OWNER)
    assert at.ledger.finish("first", token, "completed", {}, second).started == ("second",)
    assert "wide" in end(at, "second")


def test_a_queue_that_is_held_stops_the_next_step_and_not_the_others(at: Driver) -> None:
    at.work(queues=("q", "r"))
    at.submit("first", "a", owner=OWNER)
    at.ledger.hold("queue:r", "ann", "maintenance")
    assert end(at, "first", "second", "a", queue="r") == ()
    assert at.events("blocked")[-1].job_id == "second"
    assert at.events("blocked")[-1].data["reason"] == "queue:r is paused"
    assert at.submit("stranger", "a") == "waiting"
    waits = at.ledger.waits("second")
    assert waits is not None
    assert [(item.resource, item.code) for item in waits.obstacles] == [("queue:r", "held")]
    assert at.submit("other", "b") == "dispatched"


def test_a_paused_model_stops_its_owner_until_it_is_resumed(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    at.start("first")
    at.submit("stranger", "a")
    at.ledger.hold("model:a", "ann")
    assert end(at, "first", "second", "a") == ()
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
        left[owner] -= 1
        if left[owner] == 0:
            ledger.finish(job_id, token, draw.choice(["completed", "failed"]))
        else:
            step = f"{owner}-{number + 1}"
            keep_ms = draw.choice([None, 0, 50])
            # What was given back is taken again as a whole.
            needs = [draw.choice(models[owner])] if keep_ms is None else models[owner]
            successor = at.job(step, *needs, owner=owner)
            ledger.finish(job_id, token, "completed", {}, successor, keep_ms=keep_ms)
            waiting[step] = owner
        at.shift(20)
        ledger.tick()
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
    at.start("first")
    at.submit("stranger", "a")
    at.ledger.hold("model:a", "ann")
    end(at, "first", "second", "a")
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
    end(at, "first", "still", "b")
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


def test_what_no_job_is_left_for_is_given_back_however_the_last_one_ends(at: Driver) -> None:
    """Without a worker, too: canceled, expired, lost too often, taken out by force."""
    at.work()

    def canceled(job_id: str) -> None:
        assert at.ledger.cancel(job_id, "no", "ann")["answer"] == "done"

    def lost(job_id: str) -> None:
        at.ledger.finish(job_id, at.start(job_id), "lost")

    def expired(job_id: str) -> None:
        at.start(job_id)
        for _ in range(LEASE // 1_900 + 2):
            at.shift(1_900)
            at.ledger.tick()

    def removed(job_id: str) -> None:
        at.start(job_id)
        assert at.ledger.remove(job_id, "stuck", "ann")["answer"] == "done"

    for number, way in enumerate((canceled, lost, removed, expired)):
        owner = f"workflow-{number}"
        at.submit(f"job{number}", "a", owner=owner, max_retries=0)
        at.submit(f"after{number}", "a")
        assert at.ledger.holders("model:a") == {owner}, way
        way(f"job{number}")
        assert at.ledger.owned(owner) == set(), way
        if way is not expired:
            assert at.ledger.holders("model:a") == {f"after{number}"}, way
            assert at.ledger.cancel(f"after{number}", "", "")["answer"] == "done"


def test_a_group_of_jobs_keeps_the_models_until_the_last_has_ended(at: Driver) -> None:
    at.work()
    at.ledger.submit([at.job(name, "a", owner=OWNER) for name in ("one", "two", "three")])
    at.submit("other", "a")
    assert at.ledger.members(OWNER) == {"one", "two", "three"}
    at.ledger.finish("two", at.start("two"), "failed")
    end(at, "one")
    assert at.ledger.holders("model:a") == {OWNER}
    at.ledger.finish("three", at.start("three"), "retried", {}, at.job("three", "a", owner=OWNER))
    assert at.ledger.holders("model:a") == {OWNER}
    assert end(at, "three") == ("other",)


def test_a_step_that_was_canceled_while_it_ran_is_followed_by_nothing(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    at.start("first")
    at.submit("other", "a")
    assert at.ledger.cancel("first", "enough", "ann")["answer"] == "stopping"
    assert end(at, "first", "second", "a") == ("other",)
    assert (at.state("first"), at.state("second")) == ("canceled", "gone")
    assert at.events("canceled")[-1].data["by"] == "ann"


def test_a_step_that_was_released_as_it_ended_has_ended(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    at.start("first")
    assert at.ledger.release("first", "worker stops", "ann")["answer"] == "stopping"
    assert end(at, "first", "second", "a") == ("second",)
    assert (at.state("first"), at.state("second")) == ("completed", "dispatched")


def test_the_next_step_takes_the_place_of_the_one_before(at: Driver) -> None:
    """Behind all that came since, it would keep its models from others for nothing."""
    at.work(slots=1)
    at.submit("first", "a", owner=OWNER)
    at.submit("later", "b")
    assert end(at, "first", "second", "a") == ("second",)
    assert at.state("second", "sequence") == at.state("first", "sequence")


def test_an_owner_that_keeps_nothing_between_steps_waits_its_turn(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    at.submit("other", "b")
    at.submit("stranger", "a")
    assert end(at, "first", "second", "b", keep_ms=0) == ("stranger",)
    assert at.ledger.owned(OWNER) == set()
    assert at.events("blocked")[-1].data["reason"] == "Model conflict: b in use by normal job other"
    assert end(at, "other") == ("second",)


def test_a_step_that_does_not_begin_in_time_gives_the_models_back(at: Driver) -> None:
    at.work(queues=("q", "r"))
    at.submit("first", "a", owner=OWNER)
    at.start("first")
    at.submit("stranger", "a")
    at.ledger.hold("queue:r", "ann")
    assert end(at, "first", "second", "a", queue="r", keep_ms=60_000) == ()
    at.shift(200)
    at.ledger.tick()
    assert at.state("stranger") == "waiting"
    for _ in range(31):
        at.shift(2_000)
        at.ledger.renew("w", ("q", "r"), 10)
        at.ledger.tick()
    assert at.state("stranger") == "dispatched"
    assert [event.job_id for event in at.events("disowned")] == ["second"]
    at.ledger.resume("queue:r", "ann")
    assert at.state("second") == "waiting"
    assert end(at, "stranger") == ("second",)


def test_a_step_that_has_begun_keeps_the_models(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    assert end(at, "first", "second", "a", keep_ms=1_000) == ("second",)
    token = at.start("second")
    for _ in range(3):
        at.shift(2_000)
        at.ledger.renew("w", ("q",), 10, hand=[("second", token)])
        at.ledger.tick()
    assert at.ledger.holders("model:a") == {OWNER}


def test_a_restore_gives_back_what_an_owner_had_between_two_steps(at: Driver) -> None:
    at.work()
    for number, state in ((2, "waiting"), (3, "running")):
        at.redis.flushall()
        ledger = at.ledger
        ledger.redis.set("t:leader:restore", "me")
        ledger.open(number, "building", ["me"])
        for name, value in {"model": "1", "lease_ms": str(LEASE)}.items():
            ledger.run("build", number, "configure", name, value)
        stranger = at.job("stranger", "a")
        row = StoredJob(stranger, 1, State.WAITING, 0, 0, None, None, 1, 1, 1, 0, 0)
        rows = [replace(row, state=State(state), worker="w", token=1, attempts=1)]
        second = at.job("second", "a", owner=OWNER)
        rows.append(replace(row, job=second, sequence=2))
        ledger.restore(number, rows)
        ledger.run("build", number, "claim", OWNER, "model:a serial")
        ledger.open_for_workers(number, ["w"])
        hand = [("stranger", 1)] if state == "running" else []
        ledger.renew("w", ("q",), 10, register=True, hand=hand)
        ledger.tick()
        expected = "second" if state == "waiting" else "stranger"
        assert {name for name in ("stranger", "second") if at.state(name) != "waiting"} == {
            expected
        }
        assert ledger.members(OWNER) == {"second"}
        assert not verify(ledger)


def test_the_recorder_gets_a_step_and_the_next_one_together(at: Driver) -> None:
    at.work()
    at.submit("first", "a", owner=OWNER)
    end(at, "first", "second", "a")
    verbs = [event.verb for event in at.ledger.read_events(1000)]
    cut = verbs.index("completed") + 1
    assert [event.verb for event in at.ledger.read_events(cut)][-2:] == ["completed", "submitted"]
    assert len(at.ledger.read_events(cut - 1)) == cut - 1

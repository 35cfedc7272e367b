"""The ledger: slots of workers, limits, order and turns, wakes over many classes."""

from __future__ import annotations

from collections import Counter

import pytest

from coordinator.verification import verify
from tests.ledger_driver import Driver, at

__all__ = ["at"]


def test_window_follows_free_slots(at: Driver) -> None:
    at.ledger.renew("w", ["q"], 2, busy=1, register=True)
    for number in range(3):
        at.submit(f"a{number}")
    assert at.redis.llen("q") == 1
    at.ledger.renew("w", ["q"], 2, busy=0)
    assert at.redis.llen("q") == 2
    at.ledger.renew("w", ["q"], 2, busy=5)
    at.work("x", slots=1)
    at.ledger.cancel("a0", "", "")
    assert at.redis.llen("q") == 1, "more other work than slots takes none of another worker's"


def test_a_worker_learns_how_many_there_are(at: Driver) -> None:
    at.work("w")
    assert at.ledger.renew("x", ["q"], 2, register=True).workers == 2
    at.ledger.leave("x")
    assert at.ledger.renew("w", ["q"], 2).workers == 1


def test_short_tasks_are_sent_ahead_one_a_slot(at: Driver) -> None:
    at.ledger.configure({"ahead_ms": "100"})
    at.work(slots=2)
    at.submit("first")
    at.ledger.finish("first", at.start("first"), "completed")
    for number in range(9):
        at.submit(f"a{number}")
    assert at.redis.llen("q") == 4
    at.submit("long", task="long")
    assert at.state("long") == "waiting"


def test_a_slot_that_serves_two_queues_wakes_both(at: Driver) -> None:
    at.work(queues=("q", "r"), slots=1)
    at.submit("a", "m")
    assert at.submit("b", "n", queue="r") == "waiting"
    assert at.ledger.finish("a", at.start("a"), "completed").started == ("b",)


def test_claim_by_one_pool_frees_the_slot_of_another(at: Driver) -> None:
    at.work("w", ("q",), 1)
    at.work("x", ("q", "r"), 1)
    at.submit("a")
    assert at.submit("b", queue="r") == "waiting", "a may go to either worker"
    at.start("a", "w")
    assert at.state("b") == "dispatched"


def test_a_claim_by_a_worker_that_left_the_queue_frees_the_slot_of_another(at: Driver) -> None:
    at.work("old", slots=1)
    at.submit("a", "a")
    at.ledger.renew("old", ("other",), 1)
    at.work("new", slots=1)
    at.submit("b", "b")
    assert (at.state("a"), at.state("b")) == ("dispatched", "waiting")
    at.start("a", "old")
    assert at.state("b") == "dispatched"


def test_recall_frees_the_slot_for_sibling_queues(at: Driver) -> None:
    at.work(queues=("q", "r"), slots=1)
    at.submit("a")
    at.submit("b", queue="r")
    at.ledger.cancel("a", "", "")
    assert at.state("b") == "dispatched"


def test_worker_that_changes_its_queues_takes_its_jobs_along(at: Driver) -> None:
    at.work("w", ("q",), 1)
    at.submit("a", "m")
    token = at.start("a")
    at.submit("b", queue="r")
    at.ledger.renew("w", ["r"], 1, hand=[("a", token)])
    assert at.state("b") == "waiting", "its slot is taken"
    assert at.ledger.finish("a", token, "completed").started == ("b",)
    assert at.ledger.submit([at.job("c")])[0].code == "no-worker"


def test_nothing_is_handed_to_a_worker_that_leaves(at: Driver) -> None:
    at.work(slots=2)
    at.submit("a", "m")
    at.start("a")
    at.ledger.leave("w")
    at.ledger.leave("w")
    assert (at.state("a"), at.state("a", "losses")) == ("waiting", "gone")
    assert at.redis.llen("q") == 0
    assert at.ledger.workers() == []


def test_expired_worker_is_told_and_its_jobs_go_on(at: Driver) -> None:
    at.work(slots=1)
    at.submit("a", "m")
    token = at.start("a")
    at.shift(1000)
    at.ledger.tick()
    for _ in range(20):
        at.shift(1900)
        at.work("x", slots=1)
        at.ledger.tick()
    assert at.ledger.renew("w", ["q"], 1, hand=[("a", token)]).answer == "expired"
    assert (at.state("a"), at.state("a", "losses")) == ("dispatched", "1")
    assert at.ledger.renew("w", ["q"], 1, hand=[("a", token)], register=True).lost == ("a",)


def test_worker_without_slots_comes_and_goes(at: Driver) -> None:
    at.work(slots=0)
    assert at.ledger.submit([at.job("a")])[0].code == "no-slot"
    at.ledger.renew("w", ["r"], 0)
    at.ledger.leave("w")


def test_claim_the_worker_never_learned_of_is_lost_after_a_lease(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "n")
    at.start("a")
    token = at.start("b")
    for _ in range(16):
        at.shift(1900)
        at.ledger.renew("w", ["q"], 10, hand=[("b", token)])
        at.ledger.tick()
    assert (at.state("a"), at.state("a", "losses")) == ("dispatched", "1")
    assert at.state("b") == "running"


def test_old_delivery_in_hand_does_not_end_the_later_run(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    old = at.token("a")
    at.ledger.undeliver("a", old, "why")
    token = at.start("a")
    renewal = at.ledger.renew("w", ["q"], 10, hand=[("a", token), ("a", old)])
    assert renewal.lost == ()
    assert at.ledger.renew("w", ["q"], 10, hand=[("a", old)]).lost == ("a",)


def test_delivery_in_hand_keeps_its_dispatch(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.token("a")
    for _ in range(20):
        at.shift(1900)
        at.ledger.renew("w", ["q"], 10, hand=[("a", token)])
        at.ledger.tick()
    assert at.token("a") == token
    for _ in range(17):
        at.shift(1900)
        at.ledger.renew("w", ["q"], 10)
        at.ledger.tick()
    assert at.token("a") > token, "not claimed in time"
    assert at.redis.llen("q") == 1, "the old message is taken back"


def test_a_delivery_that_was_taken_back_is_lost_to_who_has_it(at: Driver) -> None:
    at.work()
    at.submit("a", "a")
    token = at.token("a")
    at.ledger.hold("model:a", "me")
    at.ledger.undeliver("a", token, "a test")
    assert at.state("a") == "waiting"
    assert at.ledger.renew("w", ("q",), 10, hand=[("a", token)]).lost == ("a",)


def test_repeated_operator_calls_write_one_event(at: Driver) -> None:
    for _ in range(2):
        at.ledger.hold("queue:q", "me", "\udc80")
        at.ledger.limit("model:m", 2, "me")
    assert [at.ledger.resume("queue:q", "me") for _ in range(2)] == [True, False]
    for verb in ("paused", "limit_set", "resumed"):
        assert len(at.events(verb)) == 1


def test_smaller_limit_admits_nobody_until_it_fits(at: Driver) -> None:
    at.work()
    at.ledger.limit("model:m", 2, "me")
    for job_id in ("a", "b", "c"):
        at.submit(job_id, "m")
    at.ledger.limit("model:m", 1, "me")
    assert at.ledger.finish("a", at.start("a"), "completed").started == ()
    assert at.ledger.finish("b", at.start("b"), "completed").started == ("c",)


@pytest.mark.parametrize(
    ("setting", "resource"),
    [
        ("model", "model:m"),
        ("serial", "serial"),
        ("org", "org:q/acme"),
        ("org:q", "org:q/acme"),
        ("queue:q", "queue:q"),
        ("integration", "integration:i"),
    ],
)
def test_larger_configured_limit_wakes(at: Driver, setting: str, resource: str) -> None:
    at.work()
    at.ledger.configure({"model": "9"})
    at.ledger.configure({setting: "1"})
    at.submit("a", "m", org="acme", integration="i")
    blocked = at.ledger.submit([at.job("b", "m", org="acme", integration="i")])[0]
    assert blocked.resource == resource
    at.ledger.configure({setting: "2"})
    assert at.state("b") == "dispatched"


def test_priority_then_order(at: Driver) -> None:
    at.work()
    at.submit("first", "m")
    for job_id, priority in (("a", 5), ("b", 9), ("c", 0), ("d", 5), ("e", 0)):
        at.submit(job_id, "m", priority=priority)
    for _ in range(6):
        last = at.started()[-1]
        at.ledger.finish(last, at.start(last), "completed")
    assert at.started() == ["first", "c", "e", "a", "d", "b"]


def test_orgs_take_turns_and_a_new_one_starts_within_a_round(at: Driver) -> None:
    at.work(slots=1)
    at.submit("first", org="x")
    for number in range(20):
        at.submit(f"big{number}", org="big")
        at.submit(f"two{number}", org="two")
    for _ in range(11):
        last = at.started()[-1]
        at.ledger.finish(last, at.start(last), "completed")
    turns = [job_id[:3] for job_id in at.started()[1:]]
    assert Counter(turns[:10]) == {"big": 5, "two": 5}
    at.submit("new0", org="new")
    for _ in range(3):
        last = at.started()[-1]
        at.ledger.finish(last, at.start(last), "completed")
    assert "new0" in at.started()[-3:]


def test_weights_give_shares(at: Driver) -> None:
    at.work(slots=1)
    at.ledger.weigh("big", 3, "me")
    at.submit("first", org="x")
    for number in range(50):
        at.submit(f"big{number}", org="big")
        at.submit(f"two{number}", org="two")
    for _ in range(60):
        last = at.started()[-1]
        at.ledger.finish(last, at.start(last), "completed")
    shares = Counter(job_id[:3] for job_id in at.started()[1:61])
    assert abs(shares["big"] - 45) <= 2


def test_turns_leave_nothing_behind(at: Driver) -> None:
    at.work(slots=1)
    at.submit("first", "m")
    for number in range(10):
        at.submit(f"a{number}", f"m{number % 2}", org=f"o{number}")
    for number in range(10):
        at.ledger.cancel(f"a{number}", "", "")
    left = {key for key in at.redis.scan_iter("t:*") if key.split(":")[1] in ("lanes", "passes")}
    assert left == set()
    assert not at.redis.exists("t:blocked")


def test_wake_beyond_the_budget_continues_and_nobody_slips_past(at: Driver) -> None:
    at.work(slots=1000)
    at.ledger.hold("queue:q", "me")
    for number in range(0, 200, 50):
        at.ledger.submit([at.job(f"a{number + i}", f"m{number + i}") for i in range(50)])
    at.ledger.resume("queue:q", "me")
    assert len(at.started()) == 40
    newcomer = at.ledger.submit([at.job("late", "other")])[0]
    assert (newcomer.state, newcomer.code) == ("waiting", "wake")
    while at.redis.exists("t:wakes"):
        before = len(at.started())
        at.ledger.run("tick")
        assert len(at.started()) - before <= 40
        assert not verify(at.ledger)
    assert at.started() == [f"a{number}" for number in range(200)] + ["late"]


def test_many_limits_at_once_wake_in_bounded_steps(at: Driver) -> None:
    at.work(slots=1000)
    for number in range(0, 150, 50):
        at.ledger.submit([at.job(f"a{number + i}", f"m{number + i}") for i in range(50)])
        at.ledger.submit([at.job(f"b{number + i}", f"m{number + i}") for i in range(50)])
    at.ledger.configure({"model": "2"})
    rounds = 0
    while at.redis.exists("t:wakes"):
        before = len(at.started())
        at.ledger.run("tick")
        assert len(at.started()) - before <= 40
        rounds += 1
        assert rounds < 50
    assert len(at.started()) == 300


def test_two_resources_of_one_class_both_pending(at: Driver) -> None:
    at.work(slots=1000)
    for resource in ("queue:q", "model:shared"):
        at.ledger.hold(resource, "me")
    at.ledger.limit("model:shared", 1000, "me")
    for number in range(0, 100, 50):
        jobs = [at.job(f"a{number + i}", f"m{number + i}") for i in range(50)]
        jobs += [at.job(f"b{number + i}", "shared", f"n{number + i}") for i in range(50)]
        at.ledger.submit(jobs)
    at.ledger.resume("queue:q", "me")
    at.ledger.resume("model:shared", "me")
    for _ in range(20):
        at.ledger.tick()
        assert not verify(at.ledger)
    assert len(at.started()) == 200


def test_a_run_that_shows_its_task_to_be_long_sends_nothing_ahead(at: Driver) -> None:
    at.ledger.configure({"ahead_ms": "100"})
    at.redis.hset("t:runtimes", "task", "10")
    at.work(slots=1)
    at.submit("a")
    token = at.start("a")
    at.submit("b")
    at.submit("c")
    assert (at.state("b"), at.state("c")) == ("dispatched", "waiting")
    at.shift(10_000)
    at.ledger.renew("w", ("q",), 1, hand=[("a", token)])
    at.ledger.finish("a", token, "completed")
    assert at.state("c") == "waiting"


def test_what_is_being_probed_is_no_drift(at: Driver) -> None:
    at.work()
    at.ledger.hold("integration:mail", "breaker")
    at.ledger.probe("integration:mail", "breaker", "failed again", "breaker", "a try")
    assert not verify(at.ledger)
    at.ledger.end_probing("integration:mail")

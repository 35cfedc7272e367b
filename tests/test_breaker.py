"""Circuit breakers: what opens them, probes, cool-downs, by hand, over a wiped Redis; and the emergency stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.breaker import Breaker, changes
from coordinator.errors import InvalidValue, LedgerClosed, Refused, StoreUnavailable
from coordinator.work_queue import WorkQueue
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]

DB = "integration:db"


@pytest.fixture
def quick(alone: Installation, open_desk: Callable[[Installation], Desk]) -> Iterator[Desk]:
    """A desk whose breakers need four jobs, cool down for a moment, and probe twice."""
    alone.conf["coordinator_panic"] = {
        "volume": 4,
        "cooldown": 0.5,
        "cooldown_most": 1.25,
        "probes": 2,
        "every": 0,
    }
    own = open_desk(alone)
    yield own
    own.ledger.pool.disconnect()


def breaker(desk: Desk, scope: str = DB) -> Breaker:
    (found,) = desk.queue.get_panic(scope)
    return found


def evaluated(desk: Desk) -> list[tuple[str, str, str]]:
    return [(one.scope, one.before, one.after) for one in desk.queue.evaluate_panic()]


def break_it(desk: Desk, **options: Any) -> None:
    for _ in range(2):
        desk.end(desk.send(**options))
        desk.fail("connection refused", **options)
    assert evaluated(desk) == [(f"integration:{options['integration']}", "closed", "open")]


def half_open(desk: Desk) -> None:
    eventually(lambda: evaluated(desk) == [(DB, "open", "half_open")], 5, 0.05)


def test_it_opens_at_the_share_and_not_below_the_volume(quick: Desk) -> None:
    for _ in range(3):
        quick.fail("refused", integration="db")
    assert evaluated(quick) == [], "three jobs say nothing"
    quick.end(quick.send(integration="other"))
    quick.fail("refused", integration="db")
    step = quick.queue.evaluate_panic(dry_run=True)[0]
    assert (step.scope, step.verb, step.dry_run) == (DB, "panic_opened", True)
    assert quick.queue.get_holds() == [], "a rehearsal changes nothing"
    assert evaluated(quick) == [(DB, "closed", "open")]
    (hold,) = quick.queue.get_holds()
    assert (hold.resource, hold.source) == (DB, "panic")
    assert hold.reason == "4 of 4 jobs failed within 5m00s"
    waits = quick.send(integration="db")
    assert quick.state(waits) == "waiting"
    assert quick.state(quick.send()) == "dispatched", "other jobs of the queue go on"
    why = quick.queue.why(waits)
    assert "integration db is paused by panic:breaker" in why.reason
    assert why.remedy == "coordinator panic close integration:db"
    assert evaluated(quick) == [], "and stays open"


def test_jobs_without_an_integration_open_the_breaker_of_their_queue(quick: Desk) -> None:
    for _ in range(2):
        quick.end(quick.send())
        quick.fail("bad")
    quick.fail("bad", integration="db")
    assert evaluated(quick) == [("queue:work", "closed", "open")]


def test_retries_and_what_operators_end_do_not_count(quick: Desk) -> None:
    for _ in range(4):
        job_id = quick.send(integration="db")
        quick.start(job_id)
        quick.queue.fail_job(job_id, "hopeless", by="ann")
        assert quick.ledger.finish(job_id, quick.token(job_id), "lost", {}).state == "failed"
        canceled = quick.send(integration="db")
        quick.queue.cancel_job(canceled)
    retried = quick.send(integration="db")
    token = quick.start(retried)
    quick.record()
    stored = quick.queue.store.stored([retried])[retried].job
    quick.ledger.finish(retried, token, "retried", {"error": "x"}, stored)
    assert evaluated(quick) == []
    assert breaker(quick).percent is None


def test_probes_run_one_at_a_time_and_close_it(quick: Desk) -> None:
    break_it(quick, integration="db")
    ids = [quick.send(integration="db") for _ in range(4)]
    half_open(quick)
    assert [quick.state(one) for one in ids] == ["dispatched"] + ["waiting"] * 3
    quick.end(ids[0])
    assert evaluated(quick) == [], "one probe of two"
    assert [quick.state(one) for one in ids[1:]] == ["dispatched"] + ["waiting"] * 2
    quick.end(ids[1])
    assert evaluated(quick) == [(DB, "half_open", "closed")]
    assert [quick.state(one) for one in ids[2:]] == ["dispatched"] * 2
    assert quick.ledger.limits([DB])[DB].value is None
    assert evaluated(quick) == [], "failures of before do not open it again"
    assert quick.queue.get_holds() == []
    told = [one.event for one in quick.queue.get_audit(resource=DB) if "panic" in one.event]
    assert told == ["panic_closed", "panic_probing", "panic_opened"]


def test_a_failed_probe_brings_the_hold_back_in_the_same_step(quick: Desk) -> None:
    """A broken integration must not burn every job of the queue between two looks."""
    break_it(quick, integration="db")
    ids = [quick.send(integration="db") for _ in range(3)]
    half_open(quick)
    quick.end(ids[0], "failed", "still refused")
    assert [quick.state(one) for one in ids[1:]] == ["waiting"] * 2
    assert [hold.resource for hold in quick.queue.get_holds()] == [DB]
    assert evaluated(quick) == [(DB, "half_open", "open")]
    found = breaker(quick)
    assert (found.state, found.trips) == ("open", 2)
    assert found.until is not None
    assert found.since is not None
    assert 0.8 < found.until - found.since < 1.01, "twice as long"
    half_open(quick)
    quick.end(ids[1], "failed", "still refused")
    assert evaluated(quick) == [(DB, "half_open", "open")]
    found = breaker(quick)
    assert found.until is not None
    assert found.since is not None
    assert 1.05 < found.until - found.since < 1.26, "at most so long"


@pytest.mark.parametrize("how", ["retried", "lost"])
def test_a_probe_that_is_retried_or_lost_failed_too(quick: Desk, how: str) -> None:
    """Else each waiting job would cost one of its attempts before the first of them gives up."""
    break_it(quick, integration="db")
    ids = [quick.send(integration="db") for _ in range(2)]
    half_open(quick)
    token = quick.start(ids[0])
    quick.record()
    again = quick.queue.store.stored([ids[0]])[ids[0]].job if how == "retried" else None
    quick.ledger.finish(ids[0], token, how, {"error": "x"}, again)
    assert [quick.state(one) for one in ids] == ["waiting"] * 2
    assert evaluated(quick) == [(DB, "half_open", "open")]


def test_by_hand_with_a_rehearsal_and_what_an_operator_had_set(quick: Desk) -> None:
    quick.queue.pause("training", reason="GPU", by="ann")
    until = quick.ledger.clock() + 3_600_000
    quick.queue.limit("queue:training", 5, until_ms=until)
    running = quick.send()
    quick.start(running)
    (step,) = quick.queue.open_panic("queue:work", dry_run=True)
    assert (step.running, step.waiting, step.after) == (1, 0, "open")
    assert breaker(quick, "queue:work").state == "closed"
    quick.queue.open_panic("queue:training", reason="fire", by="bob")
    assert [hold.by for hold in quick.queue.get_holds()] == ["panic:bob"]
    with pytest.raises(Refused, match="coordinator panic close queue:training"):
        quick.queue.open_panic("queue:training")
    assert evaluated(quick) == [], "opened for good: only a hand closes it"
    quick.queue.close_panic("queue:training", probe=True)
    assert quick.ledger.limits(["queue:training"])["queue:training"].value == 1
    assert breaker(quick, "queue:training").state == "half_open"
    quick.queue.close_panic("queue:training")
    limit = quick.ledger.limits(["queue:training"])["queue:training"]
    assert (limit.value, limit.until_ms) == (5, until)
    (hold,) = quick.queue.get_holds()
    assert (hold.by, hold.reason) == ("ann", "GPU")
    with pytest.raises(Refused, match="not in panic"):
        quick.queue.close_panic("queue:training")


def test_an_operators_resume_closes_and_an_operators_pause_counts_more(quick: Desk) -> None:
    break_it(quick, integration="db")
    quick.queue.resume(integration="db", by="ann")
    assert evaluated(quick) == [(DB, "open", "closed")]
    for _ in range(4):
        quick.fail("refused", integration="db")
    assert evaluated(quick) == [(DB, "closed", "open")]
    quick.queue.pause(integration="db", by="ann")
    until = breaker(quick).until
    assert until is not None
    eventually(lambda: quick.ledger.clock() / 1000 > until)
    assert evaluated(quick) == []
    assert [hold.by for hold in quick.queue.get_holds()] == ["ann"]


def test_it_outlives_a_wiped_redis_open_and_half_open(quick: Desk, alone: Installation) -> None:
    break_it(quick, integration="db")
    half_open(quick)
    alone.redis.flushdb()
    with pytest.raises(LedgerClosed):
        quick.queue.evaluate_panic()
    again = WorkQueue(alone.app.coordination.settings)
    again.wait_until_open()
    again.ledger.renew(quick.worker, ("work", "training"), 10, register=True)
    assert again.get_panic(DB)[0].state == "half_open"
    assert again.ledger.probing(DB)
    assert again.ledger.limits([DB])[DB].value == 1
    assert again.evaluate_panic() == ()
    again.ledger.tick()
    # Before anybody has looked at it again.
    quick.fail("still refused", integration="db")
    assert [hold.resource for hold in again.get_holds()] == [DB]
    (step,) = again.evaluate_panic()
    assert (step.before, step.after) == ("half_open", "open")
    again.ledger.pool.disconnect()


def test_probing_that_redis_does_not_know_of_goes_on(quick: Desk) -> None:
    break_it(quick, integration="db")
    half_open(quick)
    # As after a restore from a store that had not heard of it yet.
    quick.ledger.end_probing(DB)
    assert evaluated(quick) == [(DB, "half_open", "half_open")]
    assert quick.ledger.probing(DB)


def test_an_empty_redis_is_not_taken_for_an_operators_resume(
    quick: Desk, alone: Installation
) -> None:
    break_it(quick, integration="db")
    alone.redis.flushdb()
    with pytest.raises(LedgerClosed):
        quick.queue.evaluate_panic()
    quick.queue.wait_until_open()
    assert [hold.source for hold in quick.queue.get_holds()] == ["panic"]
    assert breaker(quick).state == "open"
    half_open(quick)


def test_a_hold_whose_state_was_lost_is_taken_up(quick: Desk) -> None:
    quick.ledger.hold(DB, "panic:breaker", "9 of 10 failed")
    assert evaluated(quick) == [(DB, "closed", "open")]
    assert breaker(quick).cause == "9 of 10 failed"


def test_a_pause_beneath_a_panic_that_was_begun_only_is_there_again_afterwards(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = quick.ledger.clock() + 3_600_000
    quick.queue.pause("training", reason="GPU", by="ann", until_ms=until)

    def away(*_: Any) -> None:
        raise StoreUnavailable("the database went away")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(quick.queue.store, "set_condition", away)
        with pytest.raises(StoreUnavailable):
            quick.queue.open_panic("queue:training", reason="fire", by="bob")
    assert [hold.by for hold in quick.queue.get_holds()] == ["panic:bob"]
    assert evaluated(quick) == [("queue:training", "closed", "open")]
    # As one that was half-open is opened again.
    quick.queue.close_panic("queue:training", probe=True)
    quick.queue.open_panic("queue:training", reason="fire again", by="bob")
    quick.queue.close_panic("queue:training")
    (hold,) = quick.queue.get_holds()
    assert (hold.by, hold.reason, hold.until) == ("ann", "GPU", until / 1000)
    quick.queue.resume("training", by="ann")
    quick.queue.open_panic("queue:training")
    quick.queue.close_panic("queue:training")
    assert quick.queue.get_holds() == [], "what was resumed does not come back"


def test_who_lost_the_term_between_two_moves_makes_no_more(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        quick.fail("refused", integration=f"db{number % 2}")
    monkeypatch.setattr(changes, "TERM_MS", 1)
    wait, waits = quick.queue.catch_up, list[float]()

    def long_wait(seconds: float = 3.0) -> bool:
        waits.append(seconds)
        if len(waits) == 2:
            eventually(lambda: quick.ledger.elect("breaker", "somebody", 60_000))
        return wait(seconds)

    monkeypatch.setattr(quick.queue, "catch_up", long_wait)
    with pytest.raises(Refused, match="try again"):
        quick.queue.evaluate_panic()
    assert [hold.resource for hold in quick.queue.get_holds()] == ["integration:db0"]
    assert breaker(quick, "integration:db0").state == "open", "it was begun, and is finished"
    assert breaker(quick, "integration:db1").state == "closed"


def test_the_emergency_stop_is_resumed_queue_by_queue(quick: Desk) -> None:
    running = quick.send("m")
    quick.start(running)
    quick.queue.emergency_stop(reason="smoke", by="ann", release=True)
    assert quick.state(running) == "stopping"
    work = [quick.send() for _ in range(3)]
    training = quick.send(queue="training")
    assert {quick.state(one) for one in (*work, training)} == {"waiting"}
    why = quick.queue.why(training)
    assert "everything is paused by panic:ann" in why.reason
    assert why.remedy == "coordinator panic resume QUEUE, or --all"
    rehearsed = quick.queue.emergency_resume("work", dry_run=True)
    steps = quick.queue.emergency_resume("work", by="ann")
    assert [(one.scope, one.after) for one in rehearsed] == [
        (one.scope, one.after) for one in steps
    ]
    assert steps[-1].scope == "queue:work"
    assert steps[-1].after == "half_open"
    # What was released still has its unit: it is the one that probes.
    assert quick.state(training) == "waiting"
    quick.ledger.finish(running, quick.token(running), "released", {})
    assert [quick.state(one) for one in (running, *work)].count("dispatched") == 1
    quick.queue.emergency_resume("training", at_once=True)
    assert quick.state(training) == "dispatched"
    quick.queue.emergency_resume()
    assert [one for one in quick.queue.get_panic() if one.state == "open"] == []
    with pytest.raises(Refused, match="no emergency stop"):
        quick.queue.emergency_resume()


def test_one_changes_breakers_at_a_time(quick: Desk) -> None:
    assert quick.ledger.elect("breaker", "somebody", 60_000)
    with pytest.raises(Refused, match="try again"):
        quick.queue.evaluate_panic()
    assert quick.queue.evaluate_panic(dry_run=True) == ()


@pytest.mark.parametrize("scope", ["work", "model:m", "queue:wrok", "integration:", "serial:x", ""])
def test_what_cannot_be_in_panic(quick: Desk, scope: str) -> None:
    for verb in (quick.queue.open_panic, quick.queue.close_panic, quick.queue.get_panic):
        with pytest.raises(InvalidValue):
            verb(scope)


def test_beat_has_breakers_and_alerts_looked_at(alone: Installation) -> None:
    every = alone.app.conf.beat_schedule
    assert every["coordinator.panic"]["schedule"] == 5
    assert every["coordinator.alerts"]["schedule"] == 30
    alone.work_queue.wait_until_open()
    assert alone.app.tasks["coordinator.panic"]() == 0
    assert alone.app.tasks["coordinator.alerts"]() == 0


def test_beat_leaves_out_what_is_switched_off(quick: Desk, alone: Installation) -> None:
    assert "coordinator.panic" not in alone.app.conf.beat_schedule
    for _ in range(4):
        quick.fail("refused", integration="db")
    assert alone.app.tasks["coordinator.panic"]() == 1

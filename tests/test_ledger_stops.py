"""The ledger: cancel, release, undeliver; and what happens because time passes."""

from __future__ import annotations

from tests.ledger_driver import LEASE, Driver, at

__all__ = ["at"]


def test_cancel_in_every_state(at: Driver) -> None:
    at.work()
    at.submit("running", "m")
    token = at.start("running")
    at.submit("waiting", "m")
    at.submit("dispatched", "n")
    at.submit("delayed", "m", due_ms=at.now() + 60_000)
    for job_id in ("waiting", "dispatched", "delayed"):
        assert at.ledger.cancel(job_id, "why", "me")["answer"] == "done"
        assert at.ledger.cancel(job_id, "why", "me") == {"answer": "ended", "state": "canceled"}
    assert at.redis.llen("q") == 0, "the message is taken back"
    assert at.ledger.cancel("running", "why", "me")["answer"] == "stopping"
    assert at.ledger.holders("model:m") == {"running"}, "until its death is confirmed"
    assert at.ledger.progress("running", token, {"done": 1}) == "cancel"
    assert at.ledger.cancel("nobody", "", "")["answer"] == "gone"
    assert len([e for e in at.events("canceled") if e.data.get("undelivered_result")]) == 3


def test_release_in_every_state(at: Driver) -> None:
    at.work()
    at.submit("running", "m")
    token = at.start("running")
    at.submit("waiting", "m")
    assert at.ledger.release("waiting", "", "")["answer"] == "idle"
    assert at.ledger.release("running", "", "")["answer"] == "stopping"
    assert at.ledger.finish("running", token, "released").state == "dispatched"
    assert at.state("running", "losses") == "gone"


def test_who_has_an_old_delivery_stops_no_later_run(at: Driver) -> None:
    at.work("w1")
    at.work("w2")
    at.submit("a", "m")
    old = at.token("a")
    assert at.ledger.undeliver("a", old, "its worker lost the connection")
    present = at.start("a", "w2")
    assert at.ledger.release("a", "its worker was stopped", "celery", old)["answer"] == "stale"
    assert at.state("a") == "running"
    assert (
        at.ledger.release("a", "its worker was stopped", "celery", present)["answer"] == "stopping"
    )
    assert at.ledger.finish("a", present, "released").answer == "done"


def test_cancel_of_the_first_of_a_class_lets_the_next_keep_its_place(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m")
    at.submit("other", "m", "n")
    at.submit("c", "m")
    at.ledger.cancel("b", "", "")
    assert at.ledger.finish("a", at.start("a"), "completed").started == ("other",)


def test_undelivered_job_goes_back_without_an_attempt(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.token("a")
    assert at.ledger.undeliver("a", token, "unknown task")
    assert not at.ledger.undeliver("a", token, "unknown task")
    assert at.token("a") > token
    assert at.redis.llen("q") == 1
    assert at.ledger.undeliver("a", at.token("a"), "expired", end=True)
    assert at.state("a") == "canceled"


def test_step_of_the_clock_takes_no_job_from_a_healthy_worker(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    for step in (3_600_000, -7_200_000, 60_000, -60_000, 40_000):
        at.ledger.tick()
        at.shift(step)
        assert at.ledger.tick().get("expired") is None
        assert at.ledger.renew("w", ["q"], 10, hand=[("a", token)]).answer == "ok"
    assert at.state("a") == "running"


def test_seldom_ticks_still_expire_the_dead(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.start("a")
    at.ledger.tick()
    for _ in range(4):
        at.shift(LEASE - 1000)
        at.ledger.tick()
    assert at.state("a") == "waiting"


def test_clock_set_back_does_not_keep_the_jobs_of_the_dead(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "n")
    at.start("a")
    at.ledger.tick()
    at.shift(-3_600_000)
    at.ledger.tick()
    for _ in range(20):
        at.shift(1900)
        at.ledger.tick()
    assert at.ledger.workers() == []
    assert (at.state("a"), at.state("b")) == ("waiting", "waiting")


def test_a_lease_of_a_second_ends(at: Driver) -> None:
    at.ledger.configure({"lease_ms": "1000"})
    at.work()
    at.ledger.tick()
    for _ in range(4):
        at.shift(700)
        at.ledger.tick()
    assert at.ledger.workers() == []


def test_sequences_grow_when_the_clock_is_set_back(at: Driver) -> None:
    at.submit("a", "m")
    at.shift(-60_000)
    at.submit("b", "m")
    assert int(at.state("b", "sequence")) > int(at.state("a", "sequence"))


def test_runtime_is_never_below_nothing(at: Driver) -> None:
    at.work(slots=1)
    at.submit("a", "m")
    token = at.start("a")
    at.shift(-60_000)
    at.ledger.finish("a", token, "completed")
    assert at.events("completed")[0].data["runtime_ms"] == 0
    assert float(at.redis.hget("t:runtimes", "task")) == 0


def test_job_expires_while_it_waits_and_after_a_run_it_has_to_repeat(at: Driver) -> None:
    at.work()
    at.submit("a", "m", expires_ms=at.now() + 10_000)
    at.submit("b", "m", expires_ms=at.now() + 10_000)
    at.submit("c", "m", due_ms=at.now() + 60_000, expires_ms=at.now() + 10_000)
    token = at.start("a")
    at.shift(11_000)
    at.ledger.tick()
    assert (at.state("a"), at.state("b"), at.state("c")) == ("running", "canceled", "canceled")
    at.ledger.hold("model:m", "me")
    at.ledger.finish("a", token, "released")
    at.ledger.tick()
    assert at.state("a") == "canceled"


def test_holds_and_limits_end_by_themselves(at: Driver) -> None:
    at.work()
    at.ledger.hold("model:m", "me", "why", at.now() + 5000)
    at.ledger.limit("model:n", 0, "me", "", at.now() + 5000)
    at.submit("a", "m")
    assert at.ledger.submit([at.job("b", "n")])[0].code == "closed"
    at.shift(6000)
    at.ledger.tick()
    assert (at.state("a"), at.state("b")) == ("dispatched", "dispatched")
    assert len(at.events("resumed", "override_reset")) == 2


def test_of_many_jobs_of_a_lost_worker_the_oldest_go_on_first(at: Driver) -> None:
    at.ledger.limit("model:m", 60, "me")
    at.work(slots=60)
    names = [f"j{number}" for number in range(60)]
    at.ledger.submit([at.job(name, "m") for name in names])
    for name in names:
        at.start(name)
    at.work("other", ("q", "r"), slots=25)
    at.ledger.leave("w", "killed")
    assert [name for name in names if at.state(name) == "dispatched"] == names[:25]

"""The ledger: fail, remove, resubmit, dismiss and drain."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.verification import verify
from tests.ledger_driver import Driver, at

__all__ = ["at"]


def ended(at: Driver, job_id: str, outcome: str = "failed", *models: str) -> None:
    at.submit(job_id, *(models or ("m",)))
    at.ledger.finish(job_id, at.start(job_id), outcome, {"error": "as told"})


def resubmit(at: Driver, job_id: str, state: str = "failed", **more: Any) -> dict[str, Any]:
    job = at.job(job_id, *more.pop("models", ("m",)), retries=3)
    stored = (state, more.pop("epoch", 1), more.pop("version", 4))
    return at.ledger.resubmit(job, stored, (4, 1), by="ann", reason="mended", **more)


def settle(at: Driver) -> None:
    at.ledger.settle(at.ledger.read_events(10_000))


def test_a_failed_job_keeps_its_units_until_its_run_has_ended(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.submit("b", "m")
    assert at.ledger.fail("a", "hangs", "ann") == {
        "answer": "stopping",
        "state": "stopping",
        "worker": "w",
    }
    assert at.ledger.holders("model:m") == {"a"}
    assert at.ledger.progress("a", token, {"done": 1}) == "fail"
    assert at.ledger.finish("a", token, "released").started == ("b",)
    (event,) = at.events("failed")
    assert (event.data["error"], event.data["by"], event.data["undelivered_result"]) == (
        "hangs",
        "ann",
        True,
    )
    assert at.ledger.fail("b", "", "")["answer"] == "idle"
    verify(at.ledger)


def test_a_failed_job_whose_worker_dies_is_failed(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.start("a")
    at.ledger.fail("a", "hangs", "ann")
    at.ledger.leave("w", "killed")
    assert at.state("a") == "failed"
    assert at.events("failed")[0].data["error"] == "hangs"


def test_cancel_counts_more_than_fail_and_fail_more_than_release(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    said = []
    for kind in ("release", "fail", "release", "cancel", "fail", "release"):
        getattr(at.ledger, kind)("a", kind, "ann")
        said.append(at.state("a", "stop"))
    assert said == ["release", "fail", "fail", "cancel", "cancel", "cancel"]
    assert at.ledger.finish("a", token, "retried", {}, at.job("a", "m")).state == "canceled"


def test_what_is_removed_by_force_frees_its_model_at_once_and_its_run_is_refused(
    at: Driver,
) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.submit("b", "m")
    assert at.ledger.remove("b", "", "ann")["answer"] == "idle"
    assert at.ledger.remove("a", "hangs", "ann")["answer"] == "done"
    assert at.ledger.remove("a", "hangs", "ann")["answer"] == "ended"
    assert at.ledger.remove("nobody", "", "")["answer"] == "gone"
    assert at.state("b") == "dispatched"
    assert at.ledger.renew("w", ["q"], 10, hand=[("a", token)]).lost == ("a",), "it is told"
    assert at.ledger.finish("a", token, "completed").answer == "stale"
    settle(at)
    assert at.ledger.renew("w", ["q"], 10, hand=[("a", token)]).lost == ("a",)
    verify(at.ledger)


def test_a_removal_whose_reply_was_lost_may_be_repeated(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.start("a")
    answers = [at.ledger.run("remove", "a", "hangs", "ann", "nonce") for _ in range(2)]
    assert [one["answer"] for one in answers] == ["done", "done"]
    assert at.ledger.run("remove", "a", "hangs", "ann", "another")["answer"] == "ended"


def test_resubmit_before_and_after_its_end_was_recorded(at: Driver) -> None:
    at.work()
    ended(at, "early")
    ended(at, "late")
    events = at.ledger.read_events(100)
    assert resubmit(at, "early", "running")["answer"] == "done", "the ledger knows better"
    at.ledger.settle(events)
    assert at.state("early") == "dispatched", "the recorded end is of the run before"
    assert at.ledger.counts() == {("q", "dispatched"): 1}
    assert resubmit(at, "late")["state"] == "waiting"
    assert [e.version for e in at.events("resubmitted")] == [5, 5]
    assert at.state("late", "retries") == "3"
    assert at.state("late", "attempts") == "4"
    verify(at.ledger)


def test_what_the_ledger_has_forgotten_goes_on_after_the_version_of_the_store(at: Driver) -> None:
    at.work()
    assert resubmit(at, "a", "unprocessable", version=41)["answer"] == "done"
    assert at.events("resubmitted")[0].version == 42
    assert resubmit(at, "b", "canceled", version=41, epoch=0)["answer"] == "done"
    assert at.events("resubmitted")[1].version == 1, "a new epoch counts anew"


def test_of_two_resubmissions_one_is_taken(at: Driver) -> None:
    at.work()
    ended(at, "a")
    assert resubmit(at, "a")["answer"] == "done"
    assert resubmit(at, "a") == {"answer": "active", "state": "dispatched"}
    assert at.redis.llen("q") == 1


def test_a_completed_job_is_not_resubmitted_whatever_the_store_says(at: Driver) -> None:
    at.work()
    ended(at, "a", "completed")
    assert resubmit(at, "a", "failed") == {"answer": "ended", "state": "completed"}
    settle(at)
    assert resubmit(at, "a", "failed") == {"answer": "ended", "state": "completed"}


def test_resubmitted_jobs_go_behind_those_that_wait(at: Driver) -> None:
    at.work()
    ended(at, "old")
    at.submit("runs", "m")
    at.submit("waits", "m")
    resubmit(at, "old")
    assert at.ledger.finish("runs", at.start("runs"), "completed").started == ("waits",)


def test_dismiss_cancels_what_failed_and_nothing_else(at: Driver) -> None:
    at.work()
    ended(at, "early")
    ended(at, "late", "unprocessable")
    assert at.ledger.dismiss("early", ("failed", 1, 4), "q", "seen", "ann")["answer"] == "done"
    settle(at)
    assert at.ledger.dismiss("late", ("unprocessable", 1, 4), "q", "", "")["answer"] == "done"
    assert at.ledger.dismiss("late", ("unprocessable", 1, 4), "q", "", "") == {
        "answer": "ended",
        "state": "canceled",
    }
    assert at.ledger.dismiss("none", ("completed", 1, 4), "q", "", "")["answer"] == "ended"
    settle(at)
    assert at.ledger.counts() == {}
    assert at.redis.ttl("t:job:late") > 0


@pytest.mark.parametrize("settled", [False, True])
def test_a_dismissal_whose_reply_was_lost_is_done(at: Driver, settled: bool) -> None:
    at.work()
    ended(at, "late")
    dismissal = ("dismiss", "late", "failed", 1, 4, "q", "seen", "ann")
    done = {"answer": "done", "state": "canceled"}
    assert at.ledger.run(*dismissal, "this call") == done
    if settled:
        settle(at)
    assert at.ledger.run(*dismissal, "this call") == done
    assert at.ledger.run(*dismissal, "another one")["answer"] == "ended"
    settle(at)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("where", ["waiting", "dispatched", "delayed"])
def test_a_cancel_whose_reply_was_lost_is_done(at: Driver, where: str, settled: bool) -> None:
    at.work()
    if where == "waiting":
        at.submit("first", "m")
    at.submit("a", "m", due_ms=at.now() + 60_000 if where == "delayed" else 0)
    assert at.state("a") == where
    cancel = ("cancel", "a", "cancel", "enough", "ann")
    done = {"answer": "done", "state": "canceled"}
    assert at.ledger.run(*cancel, "this call") == done
    if settled:
        settle(at)
    assert at.ledger.run(*cancel, "this call") == done
    assert at.ledger.run(*cancel, "another one")["answer"] == "ended"


def test_drain_delays_everything_pending_and_nothing_else(at: Driver) -> None:
    at.work()
    at.submit("runs", "m")
    token = at.start("runs")
    at.submit("waits", "m", priority=3)
    at.submit("out", "n")
    soon, later = at.now() + 1000, at.now() + 90_000
    at.submit("soon", "m", due_ms=soon)
    at.submit("later", "m", due_ms=later)
    until = at.now() + 60_000
    names = ["runs", "waits", "out", "soon", "later", "nobody"]
    answers = at.ledger.drain(names, until, "GPU", "ann")
    assert answers == ["running", "done", "done", "done", "later", "gone"]
    assert at.ledger.drain(names, until, "GPU", "ann") == answers, "a lost reply"
    assert len(at.events("drained")) == 3
    assert at.redis.llen("q") == 0, "what was dispatched is taken back"
    assert at.ledger.holders("model:n") == set()
    at.ledger.finish("runs", token, "completed")
    verify(at.ledger)
    at.ledger.tick()
    at.shift(61_000)
    at.ledger.tick()
    at.ledger.tick()
    # All were due in the same moment.
    assert sorted(map(at.state, ("soon", "waits", "out"))) == [
        "dispatched",
        "dispatched",
        "waiting",
    ]
    verify(at.ledger)


def test_locks_say_who_holds_and_how_many_wait(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.start("a")
    for number in range(3):
        at.submit(f"b{number}", "m", priority=number)
    at.ledger.hold("model:x", "ann", "retraining")
    at.ledger.limit("model:m", 1, "ann")
    held, paused = at.ledger.locks()
    (holder,) = held.holders
    assert (held.resource, holder.id, holder.worker, held.waiting) == ("model:m", "a", "w", 3)
    assert held.limit == 1
    assert (paused.resource, paused.holders, paused.waiting) == ("model:x", (), 0)
    assert paused.hold is not None
    assert paused.hold.pop("at_ms") > 0
    assert paused.hold == {"by": "ann", "reason": "retraining"}
    queues = {lock.resource: lock.waiting for lock in at.ledger.locks(("queue", "serial"))}
    assert queues == {"queue:q": 0, "serial": 0}

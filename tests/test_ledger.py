"""The ledger, operation by operation: submit, claim, finish."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable

import pytest

from coordinator.ledger import Ledger
from coordinator.verification import verify
from tests.ledger_driver import LEASE, Driver, at

__all__ = ["at"]


def test_job_with_free_resources_is_pushed_to_the_broker(at: Driver) -> None:
    at.work()
    assert at.submit("a", "m") == "dispatched"
    message = at.redis.lrange("q", 0, -1)[0]
    assert json.loads(message) == {"headers": {"id": "a", "coordinator_token": at.token("a")}}
    assert at.ledger.holders("model:m") == {"a"}


def test_job_of_a_busy_model_waits_and_says_for_what(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    first, second = at.ledger.submit([at.job("b", "m"), at.job("c", "m")])
    assert (first.state, first.resource, first.code) == ("waiting", "model:m", "full")
    assert (first.holders, first.position, second.position) == (("a",), 1, 2)


def test_same_id_again_changes_nothing(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    version = at.state("a", "version")
    again = at.ledger.submit([at.job("a", "m"), at.job("b", "n"), at.job("b", "n")])
    assert [item.known for item in again] == [True, False, True]
    assert at.state("a", "version") == version
    assert at.redis.llen("q") == 2


def test_empty_batch_is_no_error(at: Driver) -> None:
    assert at.ledger.submit([]) == []


def test_queue_without_workers_admits_nothing(at: Driver) -> None:
    admission = at.ledger.submit([at.job("a", "m")])[0]
    assert (admission.resource, admission.code) == ("queue:q", "no-worker")
    at.work()
    assert at.state("a") == "dispatched"


def test_all_or_nothing(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    assert at.submit("b", "m", "n") == "waiting"
    assert at.submit("c", "n") == "dispatched", "b holds nothing while it waits"


def test_a_job_passes_one_that_waits_for_something_else(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m", "n")
    at.submit("c", "n")
    token = at.start("a")
    assert at.ledger.finish("a", token, "completed").started == ()
    assert at.state("b") == "waiting", "it waits for n now"
    assert at.ledger.finish("c", at.start("c"), "completed").started == ("b",)


@pytest.mark.parametrize("name", ['m"1', "m:/%s", "mü€😀", "m'\\n", "%d[a]*?", "queue:q"])
def test_names_with_special_characters(at: Driver, name: str) -> None:
    queue = name.replace("/", "")
    at.work("w:é", (queue, "other"))
    org = name.replace("/", "")
    at.ledger.configure({f"org:{queue}": "1"})
    assert at.submit(f"a{name}", name, queue=queue, org=org) == "dispatched"
    assert at.submit("b", queue=queue, org=org) == "waiting"
    at.ledger.finish(f"a{name}", at.start(f"a{name}", "w:é"), "completed")
    assert at.state("b") == "dispatched"


def test_large_numbers_stay_exact(at: Driver) -> None:
    at.ledger.open(2**20)
    at.work()
    due = 32_503_680_000_123
    at.submit("a", "m")
    at.submit("b", "m", due_ms=due, expires_ms=due + 1)
    event = at.events("submitted")[1]
    assert event.data["due_ms"] == due
    assert event.data["sequence"] == int(at.state("b", "sequence"))
    assert at.token("a") == 2**52 + 1
    assert json.loads(at.redis.lindex("q", 0))["headers"]["coordinator_token"] == 2**52 + 1
    assert (at.state("b", "due"), at.state("b", "expires")) == (str(due), str(due + 1))


def test_of_all_deliveries_one_is_granted(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.token("a")
    granted = at.ledger.claim("a", token, "n1", "w")
    assert (granted.answer, granted.attempts) == ("granted", 1)
    assert at.ledger.claim("a", token, "n1", "w") == granted, "its reply was lost"
    assert at.ledger.claim("a", token, "n2", "w").answer == "stale"
    assert at.ledger.claim("a", token + 1, "n3", "w").answer == "stale"
    assert at.ledger.claim("nobody", token, "n4", "w").answer == "stale"


def test_forced_race_for_one_delivery(at: Driver) -> None:
    at.work()
    for round_ in range(20):
        job_id = f"a{round_}"
        at.submit(job_id, "m")
        token = at.token(job_id)

        def claim(number: int, job: str = job_id, token: int = token) -> Callable[[Ledger], str]:
            return lambda ledger: ledger.claim(job, token, f"n{number}", "w").answer

        answers = Counter(at.at_once([claim(number) for number in range(6)]))
        assert answers == {"granted": 1, "stale": 5}
        at.ledger.finish(job_id, token, "completed")
        at.redis.delete("q")


def test_claim_of_a_worker_without_lease_is_refused(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    assert at.ledger.claim("a", at.token("a"), "n", "stranger").answer == "no-worker"
    at.shift(LEASE + 1000)
    assert at.ledger.claim("a", at.token("a"), "n", "w").answer == "no-worker"
    assert at.state("a") == "dispatched"


@pytest.mark.parametrize("resource", ["model:m", "queue:q", "serial"])
def test_nothing_begins_once_a_hold_has_returned(at: Driver, resource: str) -> None:
    at.work()
    at.submit("a", "m")
    at.ledger.hold(resource, "me")
    assert at.ledger.claim("a", at.token("a"), "n", "w").answer == "held"
    assert (at.state("a"), at.state("a", "attempts")) == ("waiting", "gone")
    at.ledger.resume(resource, "me")
    assert at.state("a") == "dispatched"


def test_claim_repeated_after_a_cancel_is_still_granted(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.token("a")
    at.ledger.claim("a", token, "n", "w")
    at.ledger.cancel("a", "why", "me")
    assert at.ledger.claim("a", token, "n", "w").granted, "else nobody ends it"
    assert at.ledger.renew("w", ["q"], 10, hand=[("a", token)]).stop == {"a": "cancel"}


def test_tombstone_never_runs_again(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.finish("a", token, "completed")
    assert at.ledger.claim("a", token, "n1", "w").answer == "stale"
    assert at.submit("a", "m") == "completed"


def test_finish_hands_on_in_the_same_step(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m")
    token = at.start("a")
    done = at.ledger.finish("a", token, "completed", {"result": "1"})
    assert (done.answer, done.state, done.started) == ("done", "completed", ("b",))
    assert at.ledger.holders("model:m") == {"b"}
    again = at.ledger.finish("a", token, "completed", {"result": "1"})
    assert (again.answer, again.started) == ("again", ())


def test_only_the_present_run_can_end_a_job(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.leave("w", "killed")
    at.work("x")
    later = at.start("a", "x")
    assert later > token
    assert at.ledger.finish("a", token, "completed").answer == "stale"
    assert [event.data["token"] for event in at.events("refused")] == [token]
    assert at.state("a") == "running"
    assert at.ledger.finish("a", later, "completed").answer == "done"
    at.ledger.settle(at.ledger.read_events(1000))
    assert at.ledger.finish("a", later, "completed").answer == "again"
    assert at.ledger.finish("nobody", later, "completed").answer == "gone"


def test_of_several_ends_at_once_one_counts(at: Driver) -> None:
    at.work()
    for round_ in range(10):
        at.submit(f"a{round_}", "m")
        at.submit(f"b{round_}", "m")
        token = at.start(f"a{round_}")

        def end(
            outcome: str, job: str = f"a{round_}", token: int = token
        ) -> Callable[[Ledger], str]:
            return lambda ledger: ledger.finish(job, token, outcome).answer

        answers = at.at_once([end("completed"), end("failed"), end("lost"), end("released")])
        assert sorted(answers) == ["again", "again", "again", "done"]
        assert len(at.ledger.holders("model:m")) == 1
        for job_id in (f"a{round_}", f"b{round_}"):
            at.ledger.cancel(job_id, "", "")
        at.redis.delete("q")
        assert not verify(at.ledger)


def test_what_a_run_says_is_kept_whatever_it_is(at: Driver) -> None:
    at.work()
    texts = ["\udc80 of a file name", "\x00\x7f", "ü😀", '"}]', "12345678901234567890"]
    for number, text in enumerate(texts):
        at.submit(f"a{number}", "m")
        at.ledger.finish(f"a{number}", at.start(f"a{number}"), "failed", {"error": text, "x": None})
    found = [event.data["error"] for event in at.events("failed")]
    assert found == ["? of a file name", *texts[1:]]
    at.submit("b", "m")
    at.ledger.finish("b", at.start("b"), "completed", {"result": math.nan, "y": [math.inf]})
    assert at.events("completed")[0].data["result"] == "NaN"
    at.submit("c", "m")
    at.ledger.finish("c", at.start("c"), "lost", {"reason": None})
    assert at.state("c") == "dispatched"


def test_retry_waits_for_its_time_and_keeps_its_place(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m")
    at.submit("c", "m")
    again = at.job("a", "m", due_ms=at.now() + 4000, retries=1)
    assert at.ledger.finish("a", at.start("a"), "retried", {}, again).started == ("b",)
    assert (at.state("a"), at.state("a", "retries")) == ("delayed", "1")
    at.shift(4000)
    at.ledger.tick()
    assert at.state("a") == "waiting"
    assert at.ledger.finish("b", at.start("b"), "completed").started == ("a",)


def test_retries_do_not_wait_for_a_clock_that_was_set_back(at: Driver) -> None:
    """More of them than one script takes, among jobs that somebody wants at a given time."""
    at.work(slots=100)
    names = [f"retry-{number}" for number in range(60)]
    for name in [*names, "drained"]:
        at.submit(name, name)
    at.shift(86_400_000)
    at.ledger.tick()
    assert at.ledger.renew("w", ["q"], 100).answer == "ok"
    for name in [*names, "drained"]:
        again = at.job(name, name, due_ms=at.now() + 3000, retries=1)
        at.ledger.finish(name, at.start(name), "retried", {}, again)
    at.ledger.drain(["drained"], at.now() + 60_000, "GPU", "ann")
    for number in range(60):
        at.submit(f"at-noon-{number}", f"at-noon-{number}", due_ms=at.now() + 10_000)
    assert at.ledger.counts() == {("q", "delayed"): 121}
    # Too little to tell from a clock that creeps.
    at.shift(-1000)
    at.ledger.tick()
    assert at.ledger.counts() == {("q", "delayed"): 121}
    at.shift(-86_399_000)
    at.ledger.tick()
    while at.redis.hexists("t:meta", "overdue"):
        at.ledger.tick()
    assert {at.state(name) for name in names} == {"dispatched"}
    assert at.ledger.counts() == {("q", "delayed"): 61, ("q", "dispatched"): 60}


def test_replacement_takes_other_resources_and_leaves_the_old_ones(at: Driver) -> None:
    at.work(queues=("q", "r"))
    at.submit("a", "m", expires_ms=at.now() + 60_000)
    at.submit("b", "m")
    other = at.job("a", "n", queue="r", task="other", priority=0)
    assert at.ledger.finish("a", at.start("a"), "replaced", {}, other, "{}").started == ("a", "b")
    assert at.ledger.holders("model:n") == {"a"}
    assert at.ledger.counts() == {("q", "dispatched"): 1, ("r", "dispatched"): 1}
    assert at.state("a", "expires") == "gone", "the new signature said nothing of it"


def test_job_replaced_by_a_canvas_lives_on_under_its_id(at: Driver) -> None:
    at.work(queues=("q", "r"))
    at.submit("a", "m")
    token = at.start("a")
    assert at.ledger.finish("a", token, "replaced").state == "completed"
    at.ledger.settle(at.ledger.read_events(100))
    assert at.submit("a", "n", queue="r") == "dispatched"
    assert at.ledger.counts() == {("r", "dispatched"): 1}
    assert at.ledger.finish("a", token, "replaced").answer == "again"
    assert at.token("a") > token


@pytest.mark.parametrize("outcome", ["retried", "replaced", "released", "lost"])
def test_cancel_wins_over_what_the_run_wanted_next(at: Driver, outcome: str) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.cancel("a", "why", "me")
    successor = at.job("a", "m", retries=1) if outcome in ("retried", "replaced") else None
    assert at.ledger.finish("a", token, outcome, {}, successor).state == "canceled"
    event = at.events("canceled")[0]
    assert (event.data["reason"], event.data["by"]) == ("why", "me")
    assert event.data["undelivered_result"]


def test_retry_that_meets_a_release_is_not_counted(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.release("a", "why", "me")
    at.ledger.finish("a", token, "retried", {}, at.job("a", "n", retries=1))
    assert (at.state("a"), at.state("a", "retries")) == ("dispatched", "gone")
    assert at.ledger.holders("model:m") == {"a"}


def test_canvas_that_meets_a_release_is_not_published_twice(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.release("a", "why", "me")
    assert at.ledger.finish("a", token, "replaced").state == "completed"


def test_job_that_kills_its_workers_stops(at: Driver) -> None:
    at.submit("a", "m", max_retries=2)
    for number in range(3):
        at.work(f"w{number}")
        at.start("a", f"w{number}")
        at.ledger.leave(f"w{number}", "killed")
    assert at.state("a") == "unprocessable"
    assert [event.data.get("state") for event in at.events("expired")] == ["waiting"] * 2 + [None]
    assert at.events("unprocessable")[0].data["losses"] == 3


@pytest.mark.parametrize("kind", ["ended", "recorded"])
def test_mending_the_end_of_a_replaced_run_leaves_room_for_its_next_life(
    at: Driver, kind: str
) -> None:
    at.work()
    at.submit("a", "m")
    at.ledger.finish("a", at.start("a"), "replaced")
    at.redis.delete("t:events")
    assert at.ledger.mend_ends(kind, [("a", at.state("a", "version"))]) == ["a"]
    assert len(at.events("replaced")) == (kind == "ended")
    at.ledger.settle(at.ledger.read_events(10))
    assert at.submit("a", "m") == "dispatched"


def test_runs_go_on_when_redis_is_full(at: Driver) -> None:
    at.work()
    for job_id in ("a", "b"):
        at.submit(job_id, "m" if job_id == "a" else "n")
    token = at.start("a")
    at.redis.config_set("maxmemory", "1mb")
    try:
        assert at.ledger.renew("w", ("q",), 10, hand=[("a", token)]).answer == "ok"
        assert at.ledger.progress("a", token, {"done": 1}) is None
        at.start("b")
        assert at.ledger.finish("a", token, "completed").answer == "done"
    finally:
        at.redis.config_set("maxmemory", "0")

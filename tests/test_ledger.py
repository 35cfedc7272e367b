"""The ledger, operation by operation, on a real Redis; races are forced from several connections."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import redis

from coordinator.errors import LedgerClosed, LedgerUnavailable
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.resources import needs_of
from coordinator.verification import verify

T = TypeVar("T")

LEASE = 30_000


class Driver:
    """Short words for what the tests do again and again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ledger = Ledger(url, "t:")
        self.redis: Any = self.ledger.redis
        self.number = 0
        self.offset = 0
        self.ledger.open(1)
        self.ledger.configure({"model": "1", "lease_ms": str(LEASE), "claim_ms": str(LEASE)})
        self.ledger.configure({"ahead_ms": "-1"})

    def job(self, job_id: str, *models: str, queue: str = "q", **more: Any) -> Job:
        needs = needs_of(queue, models, more.get("org"), more.pop("integration", None))
        message = f'{{"headers":{{"id":{json.dumps(job_id)}'
        return Job(job_id, more.pop("task", "task"), queue, needs, message, **more)

    def submit(self, job_id: str, *models: str, **more: Any) -> str:
        return self.ledger.submit([self.job(job_id, *models, **more)])[0].state

    def work(self, name: str = "w", queues: tuple[str, ...] = ("q",), slots: int = 10) -> None:
        assert self.ledger.renew(name, queues, slots, register=True).answer == "ok"

    def token(self, job_id: str) -> int:
        job = self.ledger.job(job_id)
        assert job is not None
        return int(job["token"])

    def start(self, job_id: str, worker: str = "w") -> int:
        """Claim a dispatched job, as a worker that fetched its message."""
        token = self.token(job_id)
        self.redis.lrem(self.state(job_id, "queue"), 1, self.delivery(job_id))
        self.number += 1
        assert self.ledger.claim(job_id, token, f"n{self.number}", worker).granted
        return token

    def delivery(self, job_id: str) -> str:
        message = self.redis.get(f"t:message:{job_id}")
        return f'{message},"coordinator_token":{self.token(job_id)}}}}}'

    def state(self, job_id: str, name: str = "state") -> str:
        return (self.ledger.job(job_id) or {}).get(name, "gone")

    def shift(self, milliseconds: int) -> None:
        self.offset += milliseconds
        self.redis.hset("t:meta", "clock_offset", self.offset)

    def now(self) -> int:
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000 + self.offset

    def events(self, *verbs: str) -> list[Event]:
        return [event for event in self.ledger.read_events(10_000) if event.verb in verbs]

    def started(self) -> list[str]:
        return [event.job_id for event in self.events("dispatched")]

    def at_once(self, calls: list[Callable[[Ledger], T]]) -> list[T]:
        """Make calls from as many connections at the same moment."""
        barrier = threading.Barrier(len(calls))
        ledgers = [Ledger(self.url, "t:") for _ in calls]

        def make(call: Callable[[Ledger], T], ledger: Ledger) -> T:
            ledger.redis.ping()
            barrier.wait()
            return call(ledger)

        with ThreadPoolExecutor(len(calls)) as threads:
            answers = list(threads.map(make, calls, ledgers))
        for ledger in ledgers:
            ledger.pool.disconnect()
        return answers


@pytest.fixture
def at(redis_url: str) -> Iterator[Driver]:
    """An open ledger; after the test nothing in it may have drifted."""
    driver = Driver(redis_url)
    yield driver
    assert not verify(driver.ledger)
    driver.ledger.pool.disconnect()


# -- submit ------------------------------------------------------------------------------------------


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


# -- claim -------------------------------------------------------------------------------------------


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


# -- finish ------------------------------------------------------------------------------------------


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
    assert at.ledger.finish("a", later, "completed").answer == "gone"


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
    assert bool(event.data.get("undelivered_result")) == (outcome != "released")


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


# -- cancel, release, undeliver ------------------------------------------------------------------------


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


# -- workers and slots ---------------------------------------------------------------------------------


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


# -- time ----------------------------------------------------------------------------------------------


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
    assert len(at.events("resumed", "limit_reset")) == 2


# -- limits, order, turns --------------------------------------------------------------------------------


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
    at.redis.hset("t:weights", "big", 3)
    at.submit("first", org="x")
    for number in range(90):
        at.submit(f"big{number}", org="big")
        at.submit(f"two{number}", org="two")
    for _ in range(100):
        last = at.started()[-1]
        at.ledger.finish(last, at.start(last), "completed")
    shares = Counter(job_id[:3] for job_id in at.started()[1:101])
    assert abs(shares["big"] - 75) <= 2


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


# -- wakes over many classes ------------------------------------------------------------------------------


def test_wake_beyond_the_budget_continues_and_nobody_slips_past(at: Driver) -> None:
    at.work(slots=1000)
    at.ledger.hold("queue:q", "me")
    for number in range(0, 200, 50):
        at.ledger.submit([at.job(f"a{number + i}", f"m{number + i}") for i in range(50)])
    at.ledger.resume("queue:q", "me")
    assert len(at.started()) == 60
    newcomer = at.ledger.submit([at.job("late", "other")])[0]
    assert (newcomer.state, newcomer.code) == ("waiting", "wake")
    while at.redis.exists("t:wakes"):
        before = len(at.started())
        at.ledger.tick()
        assert len(at.started()) - before <= 60
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
        at.ledger.tick()
        assert len(at.started()) - before <= 60
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


# -- epochs and connections ---------------------------------------------------------------------------------


def test_another_life_of_the_server_is_refused(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    run_id = at.redis.hget("t:meta", "run_id")
    at.redis.hset("t:meta", "run_id", "another")
    with pytest.raises(LedgerClosed):
        at.submit("b", "m")
    assert at.ledger.epoch() is None
    at.redis.hset("t:meta", "run_id", run_id)
    assert at.ledger.epoch() == 1
    assert at.ledger.job("b") is None


def test_what_is_freed_while_admission_is_closed_starts_when_it_opens(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m")
    token = at.start("a")
    at.ledger.open(1, "0", ["w", "x"])
    assert at.ledger.finish("a", token, "completed").started == ()
    assert at.submit("c", "n") == "waiting"
    at.ledger.renew("w", ["q"], 10)
    at.ledger.tick()
    assert (at.state("b"), at.state("c")) == ("waiting", "waiting")
    at.ledger.renew("x", ["q"], 10, register=True)
    at.ledger.tick()
    assert (at.state("b"), at.state("c")) == ("dispatched", "dispatched")


def test_operation_goes_on_when_its_connection_breaks(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    with redis.Redis.from_url(at.url) as other:
        for number in range(5):
            other.client_kill_filter(_type="normal", skipme=True)
            assert at.submit(f"b{number}", "m") == "waiting"
            other.script_flush()
            assert at.submit(f"b{number}", "m") == "waiting"
    assert at.ledger.counts()["q", "waiting"] == 5


def test_server_that_is_not_there_is_said_so() -> None:
    ledger = Ledger("redis://127.0.0.1:1/0", patience=0.1)
    with pytest.raises(LedgerUnavailable):
        ledger.tick()


def test_term_of_a_singleton(at: Driver) -> None:
    assert at.ledger.elect("recorder", "a", 60_000)
    assert at.ledger.elect("recorder", "a", 60_000)
    assert not at.ledger.elect("recorder", "b", 60_000)
    at.ledger.resign("recorder", "b")
    assert not at.ledger.elect("recorder", "b", 60_000)
    at.ledger.resign("recorder", "a")
    assert at.ledger.elect("recorder", "b", 60_000)


def test_settled_jobs_leave_nothing(at: Driver) -> None:
    at.work()
    at.submit("a", "m", expires_ms=at.now() + 60_000)
    at.ledger.finish("a", at.start("a"), "completed")
    at.submit("b", "m", due_ms=at.now() + 60_000)
    at.ledger.cancel("b", "", "")
    events = at.ledger.read_events(1000)
    at.ledger.settle(events[:-1])
    assert (at.state("a"), at.state("b")) == ("gone", "canceled")
    at.ledger.settle(events)
    at.ledger.settle(events)
    at.ledger.leave("w")
    left = set(at.redis.scan_iter("t:*"))
    assert left == {"t:meta", "t:defaults", "t:counts", "t:runtimes", "t:events"}
    assert [event.verb for event in at.ledger.read_events(10)] == ["worker_left"]
    assert at.ledger.counts() == {}


# -- races between operations ---------------------------------------------------------------------------------


def test_many_producers_and_workers_at_once(at: Driver) -> None:
    at.work("w", ("q",), 4)
    runs: list[str] = []

    def produce(number: int) -> Callable[[Ledger], None]:
        def call(ledger: Ledger) -> None:
            for item in range(15):
                ledger.submit([at.job(f"j{number}.{item}", f"m{item % 3}")])
                ledger.submit([at.job(f"shared{item}", f"m{item % 3}")])

        return call

    def consume(number: int) -> Callable[[Ledger], None]:
        def call(ledger: Ledger) -> None:
            idle = 0
            while idle < 40:
                found = ledger.redis.brpop(["q"], timeout=0.05)
                if not found:
                    idle += 1
                    continue
                idle = 0
                headers = json.loads(found[1])["headers"]
                job_id, token = headers["id"], headers["coordinator_token"]
                if ledger.claim(job_id, token, f"{number}.{token}", "w").granted:
                    runs.append(job_id)
                    ledger.finish(job_id, token, "completed")

        return call

    at.at_once([*(produce(number) for number in range(3)), *(consume(number) for number in range(4))])
    assert len(runs) == len(set(runs)) == 3 * 15 + 15
    assert all(event.data["attempts"] == 1 for event in at.events("started"))
    held: Counter[str] = Counter()
    for event in at.events("dispatched", "completed"):
        model = next(need for need in at.job("x", *_model(event.job_id)).needs)
        held[model] += 1 if event.verb == "dispatched" else -1
        assert held[model] <= 1


def _model(job_id: str) -> tuple[str]:
    number = job_id.removeprefix("shared").rpartition(".")[2]
    return (f"m{int(number) % 3}",)


def test_cancel_against_claim(at: Driver) -> None:
    at.work()
    for round_ in range(15):
        job_id = f"a{round_}"
        at.submit(job_id, "m")
        token = at.token(job_id)
        claimed, _ = at.at_once(
            [
                lambda ledger, job=job_id, token=token: ledger.claim(job, token, "n", "w").answer,
                lambda ledger, job=job_id: ledger.cancel(job, "", "")["answer"],
            ]
        )
        assert at.state(job_id) == ("stopping" if claimed == "granted" else "canceled")
        if claimed == "granted":
            at.ledger.finish(job_id, token, "released")
        assert at.state(job_id) == "canceled"
        at.redis.delete("q")

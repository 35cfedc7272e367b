"""The ledger around an outage: a Redis without room, one that was wiped, and a clock that steps meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from coordinator.errors import LedgerClosed
from coordinator.jobs import Job
from coordinator.states import State
from coordinator.store import StoredJob
from coordinator.verification import verify
from tests.ledger_driver import LEASE, Driver, at

__all__ = ["at"]

OWNER = "workflow-1"


def stored(
    job: Job, state: State, worker: str | None = None, token: int | None = None
) -> StoredJob:
    return StoredJob(job, 1, state, int(token is not None), 0, worker, token, 1, 1, 1, 0, 0)


def restore(
    at: Driver, rows: Sequence[StoredJob], claims: dict[str, str], awaited: Sequence[str]
) -> None:
    """Wipe Redis and build the ledger again; admission waits for the workers that are awaited."""
    at.redis.flushall()
    ledger, epoch = at.ledger, 2
    assert ledger.elect("restore", "me", 3000)
    ledger.open(epoch, "building", ["me"])
    ledger.run("build", epoch, "configure", "model", "1", "lease_ms", LEASE, "claim_ms", LEASE)
    ledger.restore(epoch, rows, len(rows), len(rows))
    for owner, needs in claims.items():
        ledger.run("build", epoch, "claim", owner, needs)
    ledger.open_for_workers(epoch, awaited)


def is_open(at: Driver) -> bool:
    return bool(at.redis.hget("t:meta", "open") == "1")


def test_an_owner_whose_last_job_ends_before_admission_opens_keeps_nothing(at: Driver) -> None:
    at.work()
    job = at.job("step", "m", owner=OWNER)
    at.ledger.submit([job])
    token = at.start("step")
    restore(at, [stored(job, State.RUNNING, "w", token)], {OWNER: "model:m serial"}, ["w", "other"])
    at.work()
    assert at.ledger.finish("step", token, "completed").answer == "done"
    assert not is_open(at)
    at.work("other")
    at.ledger.tick()
    assert is_open(at)
    assert at.ledger.holders("model:m") == set()
    assert at.submit("next", "m") == "dispatched"


def test_many_owners_have_their_models_back_before_anybody_is_admitted(at: Driver) -> None:
    steps = [at.job(f"step{n}", f"m{n}", owner=f"workflow-{n}") for n in range(35)]
    others = [at.job(f"other{n}", f"m{n}") for n in range(35)]
    claims = {f"workflow-{n}": f"model:m{n}" for n in range(35)}
    # The others came first, and their workers are there first.
    restore(at, [stored(job, State.WAITING) for job in (*others, *steps)], claims, ["w"])
    at.work(slots=100)
    at.ledger.tick()
    assert is_open(at)
    at.ledger.tick()
    assert {at.state(job.job_id) for job in steps} == {"dispatched"}
    assert {at.state(job.job_id) for job in others} == {"waiting"}


def test_a_job_that_may_run_on_a_worker_unheard_of_is_not_canceled(at: Driver) -> None:
    job = at.job("a", "m")
    restore(at, [stored(job, State.WAITING)], {}, ["w"])
    with pytest.raises(LedgerClosed):
        at.ledger.cancel("a", "no more", "me")
    at.work()
    at.ledger.tick()
    assert at.ledger.cancel("a", "no more", "me")["answer"] == "done"


def test_a_clock_that_steps_back_does_not_keep_admission_closed(at: Driver) -> None:
    restore(at, [stored(at.job("a", "m"), State.WAITING)], {}, ["dead"])
    at.work()
    at.ledger.tick()
    at.shift(-3_600_000)
    at.ledger.tick()
    assert not is_open(at)
    at.work()
    # In steps that no clock would make, and in which leases go on.
    for _ in range(LEASE // 250 + 2):
        at.shift(250)
        at.ledger.tick()
        at.work()
    assert is_open(at)


def test_owners_of_jobs_that_end_without_a_word_keep_nothing(at: Driver) -> None:
    at.work(slots=30)
    for number in range(25):
        at.submit(f"j{number}", f"m{number}", owner=f"workflow-{number}", max_retries=0)
        at.start(f"j{number}")
    at.redis.zadd("t:workers", {"w": 1})
    # Taken back in pieces, of which the worker's own renewal is one.
    assert at.ledger.run("tick")["more"]
    assert at.ledger.renew("w", ["q"], 30).answer == "expired"
    at.ledger.tick()
    assert {at.state(f"j{number}") for number in range(25)} == {"unprocessable"}
    assert not list(at.redis.scan_iter("t:owned:*"))
    assert not list(at.redis.scan_iter("t:members:*"))


def test_an_owner_whose_job_is_taken_back_for_good_keeps_nothing(at: Driver) -> None:
    at.work()
    at.submit("step", "m", owner=OWNER)
    answer = at.ledger.run("undeliver", "step", at.token("step"), "its time has passed", "canceled")
    assert answer == {"answer": "done"}
    assert at.ledger.owned(OWNER) == at.ledger.holders("model:m") == set()


def test_the_hold_timeout_counts_when_the_next_step_is_taken_back(at: Driver) -> None:
    at.work()
    at.work("other", ("r",))
    at.submit("first", "m", owner=OWNER)
    token = at.start("first")
    second = at.job("second", "m", queue="r", owner=OWNER)
    at.ledger.finish("first", token, "completed", {}, second, keep_ms=1000)
    at.shift(1500)
    at.ledger.tick()
    assert at.state("second") == "dispatched"
    at.ledger.hold("queue:r", "me")
    at.submit("late", "m")
    assert at.ledger.claim("second", at.token("second"), "n", "other").answer == "held"
    assert at.state("late") == "waiting"
    at.shift(1500)
    at.ledger.tick()
    assert at.state("late") == "dispatched"


def test_the_same_submission_again_is_not_the_end_of_a_canvas(at: Driver) -> None:
    at.work()
    job = at.job("a", "m")
    at.ledger.submit([job])
    token = at.start("a")
    # Its reply was lost, and the reaper found the row without a job.
    at.ledger.submit([job])
    at.ledger.submit([job], ["entered"])
    at.ledger.finish("a", token, "replaced")
    assert at.state("a") == "completed", "it waits for what the canvas publishes"


def test_a_successor_without_an_owner_leaves_it(at: Driver) -> None:
    at.work()
    at.submit("a", "m", owner=OWNER)
    token = at.start("a")
    at.ledger.finish("a", token, "retried", successor=at.job("a", "m"))
    assert at.ledger.members(OWNER) == at.ledger.owned(OWNER) == set()
    at.submit("b", "n", owner=OWNER)
    token = at.start("a")
    at.ledger.finish("a", token, "retried", successor=at.job("a", "n", owner=OWNER))
    assert at.ledger.members(OWNER) == {"a", "b"}


@pytest.fixture
def full(at: Driver) -> Iterator[Driver]:
    """A ledger with running, delayed and waiting jobs, in a Redis that has no room."""
    at.work(slots=2)
    at.submit("running", "m")
    at.submit("waiting", "m")
    at.start("running")
    at.submit("delayed", "n", due_ms=at.now() + 1000)
    at.ledger.elect("recorder", "me", 5000)
    at.shift(1500)
    at.redis.config_set("maxmemory-policy", "noeviction")
    at.redis.config_set("maxmemory", 1)
    yield at
    at.redis.config_set("maxmemory", 0)


def test_without_room_work_goes_on_and_only_submit_refuses(full: Driver) -> None:
    ledger = full.ledger
    assert ledger.elect("recorder", "me", 5000)
    assert ledger.elect("reaper", "me", 5000)
    assert ledger.watch_memory(90) == (True, True)
    full.work()
    ledger.tick()
    assert full.state("delayed") == "dispatched"
    ledger.hold("queue:q", "me", "no room")
    assert ledger.release("running", "no room", "me")["answer"] == "stopping"
    assert ledger.finish("running", full.token("running"), "released").answer == "done"
    ledger.settle(ledger.read_events(100))
    assert not ledger.read_events(100)
    assert full.redis.dbsize() > 0
    with pytest.raises(Exception, match="memory"):
        full.submit("more", "o")
    assert full.state("more") == "gone"
    assert not verify(ledger)

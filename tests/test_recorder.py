"""The recorder on a real ledger: every event reaches the store once, whatever breaks on the way."""

from __future__ import annotations

import json
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from coordinator.errors import LedgerFull, StoreUnavailable
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.recovery import recorder as recorder_module
from coordinator.recovery.reconciliation import Reconciler
from coordinator.recovery.recorder import Recorder
from coordinator.resources import needs_of
from coordinator.settings import Settings
from coordinator.store import Store
from coordinator.work_queue import WorkQueue
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

Deliver = Callable[[Event, dict[str, Any] | None], None]

EVENTS = "coordinator:events"


def job(job_id: str, model: str = "m") -> Job:
    needs = needs_of("selfplay", [model])
    message = '{"body":"","headers":{"id":"' + job_id + '"'
    return Job(
        job_id, "tasks.play", "selfplay", needs, message, submitted_ms=int(time.time() * 1000)
    )


def refuse(event: Event, _row: dict[str, Any] | None) -> None:
    raise AssertionError(f"nothing to deliver for {event}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db", busy_timeout=0.2)
    store.upgrade()
    yield store
    store.close()


@pytest.fixture
def ledger(redis_url: str, store: Store) -> Ledger:
    ledger = Ledger(redis_url)
    ledger.open(store.open_epoch())
    ledger.configure({"model": "1"})
    ledger.renew("w1", ["selfplay"], 10, register=True)
    return ledger


@pytest.fixture
def recorder(ledger: Ledger, store: Store) -> Recorder:
    return Recorder(ledger, store, refuse, "me")


def submit(ledger: Ledger, store: Store, *jobs: Job) -> None:
    store.insert(jobs)
    ledger.submit(jobs)


def run(ledger: Ledger, job_id: str) -> None:
    known = ledger.job(job_id)
    assert known is not None
    token = int(known["token"])
    assert ledger.claim(job_id, token, "nonce", "w1").granted
    assert ledger.finish(job_id, token, "completed", {"result": "5"}).answer == "done"


def forgotten(ledger: Ledger, job_id: str) -> bool:
    """Whether the ledger has let go of an ended job; a trace of its state is left for a minute."""
    known = ledger.job(job_id)
    assert known is not None
    return "class" not in known


def row(store: Store, job_id: str) -> dict[str, Any]:
    found = store.job(job_id)
    assert found is not None
    return found


def test_what_the_ledger_did_reaches_the_store_and_is_forgotten(
    ledger: Ledger, store: Store, recorder: Recorder, redis_client: redis.Redis
) -> None:
    submit(ledger, store, job("a"), job("b"))
    assert recorder.tick() > 0
    assert (row(store, "a")["state"], row(store, "b")["state"]) == ("dispatched", "waiting")
    assert row(store, "b")["blocked_by_job_id"] == "a"
    run(ledger, "a")
    assert not forgotten(ledger, "a"), "a tombstone, until the end is recorded"
    assert recorder.tick() > 0
    assert recorder.tick() == 0
    assert (row(store, "a")["state"], row(store, "b")["state"]) == ("completed", "dispatched")
    assert forgotten(ledger, "a")
    assert redis_client.xlen(EVENTS) == 0
    verbs = [event["event_type"] for event in store.history("a")]
    assert verbs == ["submitted", "dispatched", "started", "completed"]


def test_one_records_and_another_takes_over_when_its_term_ends(
    ledger: Ledger, store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "TERM_MS", 300)
    other = Recorder(ledger, store, refuse, "other")
    submit(ledger, store, job("a"))
    assert recorder.tick() > 0
    submit(ledger, store, job("b"))
    assert other.tick() == 0
    assert not other.elected
    assert eventually(other.tick) > 0, "the first has died: its term is not extended"
    assert recorder.tick() == 0
    assert row(store, "b")["state"] == "waiting"


class _Rest(threading.Event):
    """Tells when it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()
        return super().wait(timeout)


def test_it_gathers_what_comes_after_the_end_of_the_stream_but_never_rests_while_behind(
    ledger: Ledger,
    store: Store,
    recorder: Recorder,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder_module, "GATHER", 60.0)
    monkeypatch.setattr(recorder_module, "BATCH", 2)
    monkeypatch.setattr(recorder_module, "BATCHES", 1)
    submit(ledger, store, *(job(f"a{number}") for number in range(10)))
    assert redis_client.xlen(EVENTS) > 20
    rest = _Rest()
    thread = threading.Thread(target=recorder.run, args=(rest,))
    thread.start()
    assert rest.begun.wait(30), "it came to the end without a rest of a minute on the way"
    assert redis_client.xlen(EVENTS) == 0
    submit(ledger, store, job("b"))
    rest.set()
    thread.join(30)
    assert not thread.is_alive()
    assert redis_client.xlen(EVENTS) == 2, (
        "a transaction for a single job costs as much as for fifty"
    )


def _recorded(store: Store, job_id: str) -> bool:
    return bool(row(store, job_id)["version"])


def test_one_that_rests_goes_on_with_the_next_event(
    ledger: Ledger, store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventually(lambda: recorder.tick() == 0)
    assert not ledger.await_events(0.05)
    monkeypatch.setattr(recorder_module, "GATHER", 0.0)
    monkeypatch.setattr(recorder_module, "REST", 4.0)
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(stop,))
    thread.start()
    took = []
    for name in ("a", "b", "c"):
        submit(ledger, store, job(name))
        began = time.monotonic()
        eventually(partial(_recorded, store, name), 30)
        took.append(time.monotonic() - began)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert min(took) < 2.0, "not only when its rest is over"


def test_a_store_that_is_down_keeps_everything_in_the_stream(
    ledger: Ledger, store: Store, recorder: Recorder, tmp_path: Path, redis_client: redis.Redis
) -> None:
    submit(ledger, store, job("a"))
    kept = redis_client.xlen(EVENTS)
    with Store(str(store.url)).writing(), pytest.raises(StoreUnavailable):
        recorder.tick()
    assert redis_client.xlen(EVENTS) == kept
    run(ledger, "a")
    assert recorder.tick() > kept
    assert row(store, "a")["state"] == "completed"


def test_killed_between_the_store_and_the_ledger_nothing_counts_twice(
    ledger: Ledger, store: Store, recorder: Recorder, redis_client: redis.Redis
) -> None:
    submit(ledger, store, job("a"))
    run(ledger, "a")
    # What the recorder does up to its death: the store commits, and the ledger is never told.
    events = ledger.read_events(500)
    store.record(events)
    totals, history = store.totals(), store.history("a")
    assert recorder.tick() == len(events)
    assert (store.totals(), store.history("a")) == (totals, history)
    assert redis_client.xlen(EVENTS) == 0
    assert forgotten(ledger, "a")


def cancel_waiting(ledger: Ledger, store: Store) -> None:
    submit(ledger, store, job("a"), job("b"))
    assert ledger.cancel("b", "no longer needed", "ann")["answer"] == "done"


def test_a_result_that_no_worker_wrote_is_delivered_before_the_ledger_forgets(
    ledger: Ledger, store: Store, redis_client: redis.Redis
) -> None:
    delivered: list[tuple[str, str, bool]] = []

    def deliver(event: Event, found: dict[str, Any] | None) -> None:
        assert found is not None
        delivered.append((event.job_id, found["state"], redis_client.xlen(EVENTS) > 0))

    cancel_waiting(ledger, store)
    Recorder(ledger, store, deliver, "me").tick()
    assert delivered == [("b", "canceled", True)]


def test_a_result_that_cannot_be_delivered_is_set_aside(
    ledger: Ledger, store: Store, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def deliver(_event: Event, _row: dict[str, Any] | None) -> None:
        raise ValueError("a chord without a head")

    cancel_waiting(ledger, store)
    assert Recorder(ledger, store, deliver, "me").tick() > 0
    (aside,) = store.poison()
    assert aside["error"] == "not delivered: ValueError: a chord without a head"
    assert json.loads(aside["event"])["job_id"] == "b"
    assert "[COORDINATOR] the result of job b was not delivered" in caplog.text
    assert redis_client.xlen(EVENTS) == 0


def test_a_delivery_that_has_to_wait_is_repeated(
    ledger: Ledger, store: Store, redis_client: redis.Redis
) -> None:
    tries: list[str] = []

    def deliver(event: Event, _row: dict[str, Any] | None) -> None:
        tries.append(event.job_id)
        if len(tries) == 1:
            raise StoreUnavailable("for a moment")

    cancel_waiting(ledger, store)
    own = Recorder(ledger, store, deliver, "me")
    with pytest.raises(StoreUnavailable):
        own.tick()
    assert redis_client.xlen(EVENTS) > 0
    own.tick()
    assert tries == ["b", "b"]
    assert store.poison() == []


def add(client: Any, verb: str, job_id: str, version: int, **data: Any) -> None:
    fields = {"verb": verb, "job": job_id, "version": version, "at": 1_700_000_000_000, "epoch": 1}
    client.xadd(EVENTS, {**fields, "data": json.dumps(data)})


def test_poison_is_set_aside_and_the_rest_goes_on(
    ledger: Ledger,
    store: Store,
    recorder: Recorder,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submit(ledger, store, *(job(f"j{number}", f"m{number}") for number in range(8)))
    add(redis_client, "started", "j0", 99, state="asleep")
    run(ledger, "j1")
    add(redis_client, "started", "j2", 99, state="running")
    run(ledger, "j3")
    written = redis_client.xlen(EVENTS)
    with caplog.at_level(logging.ERROR, "coordinator"):
        assert recorder.tick() == written
    assert redis_client.xlen(EVENTS) == 0
    assert store.counts() == {"completed": 2, "dispatched": 6}
    assert len(store.poison()) == 2
    alarms = [record.message for record in caplog.records]
    assert len(alarms) == 2
    assert all(
        alarm.startswith("[COORDINATOR] event ") and "set aside" in alarm for alarm in alarms
    )


def test_an_event_with_refused_details_still_moves_its_job(
    ledger: Ledger, store: Store, recorder: Recorder, redis_client: redis.Redis
) -> None:
    submit(ledger, store, job("a"))
    known = ledger.job("a")
    assert known is not None
    version = int(known["version"]) + 1
    add(redis_client, "canceled", "a", version, state="canceled", runtime_ms="soon")
    recorder.tick()
    assert row(store, "a")["state"] == "canceled"
    (aside,) = store.poison()
    assert json.loads(aside["event"])["data"]["runtime_ms"] == "soon"


def test_an_end_that_cannot_be_recorded_keeps_its_tombstone(
    ledger: Ledger, store: Store, recorder: Recorder, redis_client: Any
) -> None:
    submit(ledger, store, job("a"))
    recorder.tick()
    run(ledger, "a")
    ((entry, fields),) = redis_client.xrevrange(EVENTS, count=1)
    redis_client.xdel(EVENTS, entry)
    data = json.loads(fields["data"]) | {"attempts": "many"}
    redis_client.xadd(EVENTS, {**fields, "data": json.dumps(data)})
    recorder.tick()
    assert row(store, "a")["state"] == "running"
    tombstone = ledger.job("a")
    assert tombstone is not None, "the reaper would take the job for a lost one and run it again"
    assert tombstone["state"] == "completed"
    assert redis_client.xlen(EVENTS) == 0


def test_the_loop_records_soon_and_stops_at_once(
    ledger: Ledger, store: Store, recorder: Recorder
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(stop,))
    thread.start()
    try:
        submit(ledger, store, job("a"))
        eventually(lambda: row(store, "a")["state"] == "dispatched", timeout=1)
        run(ledger, "a")
        eventually(lambda: row(store, "a")["state"] == "completed", timeout=1)
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert Recorder(ledger, store, refuse, "other").tick() == 0
    assert ledger.elect("recorder", "other", 1000), "the term was given back"


def test_the_loop_outlives_a_store_that_is_down(
    ledger: Ledger, store: Store, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "coordinator")
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(stop,))
    submit(ledger, store, job("a"))
    try:
        with Store(str(store.url)).writing():
            thread.start()
            eventually(lambda: "[COORDINATOR] recording waits" in caplog.text)
        eventually(lambda: row(store, "a")["state"] == "dispatched")
        eventually(lambda: "[COORDINATOR] recording goes on" in caplog.text)
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def queue(redis_url: str, tmp_path: Path) -> Iterator[WorkQueue]:
    queue = WorkQueue(
        Settings(redis_url=redis_url, database_url=f"sqlite:///{tmp_path}/q.db", data_dir=tmp_path)
    )
    assert queue.ensure_open()
    queue.configure()
    yield queue
    queue.store.close()


def recorder_of(queue: WorkQueue) -> Recorder:
    return Recorder(queue.ledger, queue.store, refuse, "me", queue.settings.memory_watermark)


def test_what_operators_set_is_there_again_after_a_wipe(
    queue: WorkQueue, redis_client: redis.Redis
) -> None:
    later = int(time.time() * 1000) + 600_000
    queue.pause("training", by="ann", reason="repair")
    queue.pause(model="ranker", by="ann", until_ms=later)
    queue.pause("selfplay", by="ann")
    queue.resume("selfplay", by="bob", reason="repaired")
    queue.limit("queue:evaluation", 1, by="bob", reason="slow disk")
    queue.limit("model:ranker", 4, by="bob", until_ms=later)
    queue.limit("model:other", 4, by="bob")
    queue.limit("model:other", None, by="bob")
    before = queue.ledger.holds(), redis_client.hgetall("coordinator:limits")
    ends = redis_client.zrange("coordinator:ends", 0, -1, withscores=True)
    recorder_of(queue).tick()
    redis_client.flushall()
    assert queue.ensure_open()
    queue.configure()
    held = {name: note["by"] for name, note in queue.ledger.holds().items()}
    assert held == {"queue:training": "ann", "model:ranker": "ann"}
    assert {name: note["reason"] for name, note in queue.ledger.holds().items()} == {
        name: note["reason"] for name, note in before[0].items()
    }
    assert redis_client.hgetall("coordinator:limits") == before[1]
    assert redis_client.zrange("coordinator:ends", 0, -1, withscores=True) == ends
    actions = [(row["event_type"], row["who"], row["why"]) for row in queue.store.audit()]
    assert ("resumed", "bob", "repaired") in actions
    assert ("limit_set", "bob", "slow disk") in actions


def test_operators_actions_on_jobs_are_logged_with_who_and_why(queue: WorkQueue) -> None:
    queue.ledger.renew("w1", ["selfplay"], 10, register=True)
    queue.submit_all([job("a"), job("b"), job("c", "n")])
    for job_id in ("a", "c"):
        token = int((queue.ledger.job(job_id) or {})["token"])
        assert queue.ledger.claim(job_id, token, "nonce", "w1").granted
    assert queue.cancel_job("b", "not needed", "ann") == "canceled"
    assert queue.cancel_job("a", "wrong data", "ann") == "stopping"
    assert queue.release_job("c", "maintenance", "bob") == "stopping"
    Recorder(queue.ledger, queue.store, lambda _event, _row: None, "me").tick()
    logged = {
        row["job_id"]: (row["event_type"], row["who"], row["why"], row["before"], row["after"])
        for row in queue.store.audit()
        if row["who"] in ("ann", "bob")
    }
    assert logged == {
        "a": ("stopping", "ann", "wrong data", "running", "stopping"),
        "b": ("canceled", "ann", "not needed", "waiting", "canceled"),
        "c": ("stopping", "bob", "maintenance", "running", "stopping"),
    }


def test_a_job_replaced_by_a_canvas_gets_the_definition_of_its_new_life(queue: WorkQueue) -> None:
    queue.ledger.renew("w1", ["selfplay"], 10, register=True)
    queue.submit(job("a", "old"))
    token = int((queue.ledger.job("a") or {})["token"])
    assert queue.ledger.claim("a", token, "nonce", "w1").granted
    assert queue.finish("a", token, "replaced", {}).answer == "done"
    recorder_of(queue).tick()
    needs = needs_of("selfplay", ["new", "newer"])
    queue.submit(replace(job("a"), needs=needs, message='{"body":"2","headers":{"id":"a"'))
    recorder_of(queue).tick()
    found = row(queue.store, "a")
    assert (found["required_models"], found["state"]) == (["new", "newer"], "dispatched")
    assert found["message"].startswith('{"body":"2"')
    assert [item["job_id"] for item in queue.store.jobs(model="newer")] == ["a"]


@pytest.mark.parametrize("durability", ["database", "redis"])
def test_a_redis_that_is_nearly_full_refuses_new_jobs_and_goes_on_with_the_others(
    queue: WorkQueue, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setattr(recorder_module, "MEMORY_SECONDS", 0.0)
    monkeypatch.setattr(recorder_module, "MEMORY_IDLE", 0.0)
    queue.settings = replace(queue.settings, durability=durability)
    queue.ledger.renew("w1", ["selfplay"], 10, register=True)
    queue.submit_all([job("a"), job("b")])
    own = recorder_of(queue)
    own.tick()
    used = redis_client.info("memory")["used_memory"]
    try:
        redis_client.config_set("maxmemory", int(used / 0.93))
        own.tick()
        with pytest.raises(LedgerFull, match="MB it may") as raised:
            queue.submit(job("c"))
        assert raised.value.used > 0.9 * raised.value.allowed
        assert queue.store.known(["c"]) == set(), "refused is refused: nothing of it stays"
        assert queue.submit(job("d", "n"), inside=True).state == "dispatched"
        # What there is goes on: a runs, ends, and hands its model to b.
        run(queue.ledger, "a")
        queue.ledger.renew("w1", ["selfplay"], 10)
        assert (queue.ledger.job("b") or {})["state"] == "dispatched"
        # Between the two marks it stays as it is.
        redis_client.config_set("maxmemory", int(used / 0.87))
        own.tick()
        with pytest.raises(LedgerFull):
            queue.submit(job("c"))
        redis_client.config_set("maxmemory", int(used / 0.5))
        own.tick()
        assert queue.submit(job("c", "o")).state == "dispatched"
    finally:
        redis_client.config_set("maxmemory", 0)


def test_memory_is_looked_at_less_often_while_there_is_nothing_to_record(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MEMORY_SECONDS", 0.0)
    monkeypatch.setattr(recorder_module, "MEMORY_IDLE", 3600.0)
    own = recorder_of(queue)

    def looked() -> bool:
        before = own._looked_at
        own.tick()
        return own._looked_at > before

    assert looked()
    assert not looked(), "nothing was recorded"
    queue.submit(job("a"))
    assert [looked(), looked(), looked()] == [False, True, False]


def test_rows_that_cannot_be_taken_back_stay_accepted(
    queue: WorkQueue, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_store: Store, _ids: list[str]) -> int:
        raise StoreUnavailable("just now")

    full = {"used": 2, "allowed": 1, "until_ms": 1 << 50}
    redis_client.hset("coordinator:meta", "full", json.dumps(full))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "withdraw", down)
        assert queue.submit(job("a")).code == "memory"
    assert Reconciler(queue).enter_unknown() == 0
    redis_client.hdel("coordinator:meta", "full")
    assert Reconciler(queue).enter_unknown() == 1


def test_a_worker_starts_without_its_database_and_records_when_it_is_back(
    alone: Installation,
) -> None:
    blocked = alone.folder / "data"
    blocked.write_text("a file where the folder of the database should be")
    alone.conf["coordinator_database_url"] = f"sqlite:///{blocked}/store.db"
    alone.conf["coordinator_durability"] = "redis"
    with alone.worker(queues=["work", "maintenance"]) as worker:
        eventually(lambda: worker.said("[COORDINATOR] recording waits"), timeout=30)
        assert "cannot be made" in worker.log.read_text()
        blocked.unlink()
        result = alone.play()
        alone.get(result)

        def recorded() -> bool:
            found = alone.work_queue.store.job(result.id)
            return found is not None and found["state"] == "completed"

        eventually(recorded, timeout=30)
        assert "alembic" not in worker.log.read_text()


def fewer_than(client: redis.Redis, number: int) -> bool:
    return int(client.xlen(EVENTS)) < number


def record_for_ever(redis_url: str, store_url: str, holder: str) -> None:
    """Record until killed; runs in a process of its own."""
    own = Recorder(Ledger(redis_url), Store(store_url, busy_timeout=5), refuse, holder)
    recorder_module.TERM_MS = 200
    recorder_module.WATCH = 0.05
    own.run(threading.Event())


@pytest.mark.slow
def test_recorders_killed_anywhere_lose_nothing_and_count_nothing_twice(
    ledger: Ledger,
    store: Store,
    redis_url: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder_module, "TERM_MS", 200)
    ledger.renew("w1", ["selfplay"], 2000)
    jobs = [job(f"j{number}", f"m{number}") for number in range(1500)]
    for start in range(0, len(jobs), 100):
        store.insert(jobs[start : start + 100])
        ledger.submit(jobs[start : start + 100])
    started = [
        own.job_id for own in jobs if (ledger.job(own.job_id) or {}).get("state") == "dispatched"
    ]
    for job_id in started:
        run(ledger, job_id)
    written = redis_client.xlen(EVENTS)
    randomly = random.Random(4)
    context = get_context("spawn")
    kills = 0
    while redis_client.xlen(EVENTS) and kills < 6:
        before = redis_client.xlen(EVENTS)
        process = context.Process(
            target=record_for_ever, args=(redis_url, str(store.url), f"p{kills}")
        )
        process.start()
        eventually(partial(fewer_than, redis_client, before), timeout=30)
        process.join(randomly.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    survivor = Recorder(ledger, store, refuse, "survivor")
    eventually(lambda: survivor.tick() == 0 and survivor.elected)
    assert redis_client.xlen(EVENTS) == 0
    assert store.counts().get("completed") == len(started)
    per_job = ("submitted", "dispatched", "started", "completed")
    totals = {name: value for (name, _, _), value in store.totals().items()}
    assert [totals[name] for name in per_job[2:]] == [len(started)] * 2
    assert totals["submitted"] == len(jobs)
    assert sum(value for name, value in totals.items() if name != "runtime_ms") == written
    assert kills > 0

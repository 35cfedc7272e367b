"""The restore step by step, on a real Redis and a real database: what a frozen, late or second process may do."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.errors import LedgerClosed
from coordinator.identity import machine
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.recovery.recorder import Recorder, record_all
from coordinator.recovery.restorer import ANYBODY, FRESH_MS, TERM_MS, Restorer
from coordinator.resources import needs_of
from coordinator.settings import Settings
from coordinator.store import Store
from coordinator.verification import verify
from tests.helpers import eventually

#: Later than any heartbeat, Unix milliseconds.
FAR = 1 << 50


class Installation:
    """One ledger and one store, and restorers of them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.settings = Settings(redis_url=url, data_dir=folder, lease_seconds=30)
        self.ledger = Ledger(url, patience=1.0)
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.store.upgrade()

    def restorer(self, holder: str = "first") -> Restorer:
        return Restorer(self.ledger, self.store, self.settings, self.record, holder)

    def record(self, events: Sequence[Event]) -> set[tuple[int, str]]:
        return record_all(self.store, events)

    def settle(self) -> None:
        """What the recorder does."""
        events = self.ledger.read_events(1000)
        assert not self.record(events)
        self.store.note_workers(events)
        self.ledger.settle(events)

    def submit(self, job_id: str, *models: str) -> Job:
        job = Job(job_id, "task", "q", needs_of("q", models, None, None), '{"headers": {"id": "x"')
        self.store.insert([job])
        self.ledger.submit([job])
        return job

    def start(self, job_id: str, worker: str = "w") -> int:
        token = int((self.ledger.job(job_id) or {})["token"])
        assert self.ledger.claim(job_id, token, f"nonce of {job_id}", worker).granted
        return token

    def enrol(self, worker: str) -> None:
        self.store.enrol_worker(worker, ["q"], 4, {}, self.ledger.clock())

    def open(self) -> str:
        return str(self.ledger.redis.hget("coordinator:meta", "open"))

    def awaited(self) -> set[str]:
        return set(self.ledger.redis.smembers("coordinator:awaited"))


@pytest.fixture
def at(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(redis_url, tmp_path)
    assert installation.restorer().ensure_open()
    installation.enrol("w")
    installation.ledger.renew("w", ["q"], 4, register=True)
    yield installation
    installation.store.close()
    installation.ledger.pool.disconnect()


def test_the_first_ledger_opens_at_once(at: Installation) -> None:
    assert at.open() == "1"


def test_after_a_wipe_admission_waits_a_lease_for_workers_nobody_knows(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    # Its start is not recorded: neither ledger nor store can tell that w has it.
    token = at.start("a")
    at.store.confirm_workers(0)
    at.store.note_workers([Event(1, "9-0", "worker_left", "", 0, FAR, {"worker": "w"})])
    redis_client.flushall()
    assert at.restorer().ensure_open()
    at.ledger.tick()
    assert at.open() == "0"
    assert at.awaited() == {ANYBODY}
    answer = at.ledger.renew("w", ["q"], 4, hand=[("a", token)])
    assert answer.answer == "ok"
    assert not answer.lost
    assert (at.ledger.job("a") or {})["state"] == "running"
    at.ledger.tick()
    assert at.open() == "0"


def test_after_a_wipe_admission_opens_when_those_the_store_knows_have_reported(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.enrol("x")
    at.ledger.renew("x", ["q"], 4, register=True)
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.awaited() == {"w", "x"}
    at.ledger.renew("w", ["q"], 4)
    at.ledger.tick()
    assert at.open() == "0"
    at.ledger.renew("x", ["q"], 4)
    at.ledger.tick()
    assert at.open() == "1"


def test_one_that_left_is_not_awaited(at: Installation, redis_client: redis.Redis) -> None:
    at.enrol("x")
    at.ledger.renew("x", ["q"], 4, register=True)
    at.ledger.leave("x", "left")
    at.settle()
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.awaited() == {"w"}


def test_what_only_the_ledger_knows_survives_a_second_wipe(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.ledger.renew("stranger", ["q"], 4, register=True)
    at.ledger.redis.hset("coordinator:meta", "run_id", "another life")
    assert at.restorer().ensure_open()
    assert at.awaited() == {"stranger", "w"}
    redis_client.flushall()
    assert at.restorer("second").ensure_open()
    assert at.awaited() == {"stranger", "w"}


def test_a_roster_that_is_old_is_not_trusted(at: Installation, redis_client: redis.Redis) -> None:
    at.store.confirm_workers(at.ledger.clock() - FRESH_MS - 1000)
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.awaited() == {ANYBODY, "w"}


def test_notes_that_were_pruned_do_not_delay_a_restore(at: Installation) -> None:
    at.submit("a", "m")
    at.settle()
    # A note has an id that no stream reaches, and its row is the newest of the log.
    at.store.prune(log_days=0, at_ms=at.ledger.clock() + 60_000)
    at.store.confirm_workers(0)
    at.ledger.redis.hset("coordinator:meta", "run_id", "another life")
    assert at.restorer().ensure_open()
    assert at.awaited() == {"w"}


def test_a_second_restorer_takes_over_within_its_term(at: Installation) -> None:
    at.ledger.redis.hset("coordinator:meta", "run_id", "another life")
    assert at.ledger.elect("restore", "killed", TERM_MS)
    assert not at.restorer().ensure_open()
    assert at.ledger.redis.pttl("coordinator:leader:restore") <= 3000
    eventually(at.restorer().ensure_open, TERM_MS / 1000 + 1)


def test_one_that_takes_long_keeps_its_term(
    at: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = at.restorer()
    at.submit("a", "m")
    at.ledger.redis.hset("coordinator:meta", "run_id", "another life")
    unfinished = at.store.unfinished
    asked: list[bool] = []

    def slow(*arguments: Any, **options: Any) -> Any:
        if not asked:
            end = time.monotonic() + 1.5 * TERM_MS / 1000
            eventually(lambda: time.monotonic() > end, 10)
            asked.append(at.restorer("second").ensure_open())
        return unfinished(*arguments, **options)

    monkeypatch.setattr(at.store, "unfinished", slow)
    assert restorer.ensure_open()
    assert asked == [False]


def test_progress_is_told(at: Installation, redis_client: redis.Redis) -> None:
    at.submit("a", "m")
    at.submit("b", "n")
    assert at.ledger.restoring() is None
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.ledger.restoring() == (2, 2, 1)
    at.ledger.renew("w", ["q"], 4)
    at.ledger.tick()
    assert at.ledger.restoring() is None


def test_a_run_that_ends_before_its_worker_reported_waits_for_it(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    token = at.start("a")
    redis_client.flushall()
    assert at.restorer().ensure_open()
    with pytest.raises(LedgerClosed):
        at.ledger.finish("a", token, "completed")
    assert at.ledger.progress("a", token, {"done": 1}) is None
    at.ledger.renew("w", ["q"], 4, hand=[("a", token)])
    assert at.ledger.finish("a", token, "completed").answer == "done"


def test_a_run_that_was_retried_is_not_brought_back(
    at: Installation, redis_client: redis.Redis
) -> None:
    job = at.submit("a", "m")
    token = at.start("a")
    assert at.ledger.finish("a", token, "retried", successor=job).answer == "done"
    at.settle()
    redis_client.flushall()
    assert at.restorer().ensure_open()
    at.ledger.renew("w", ["q"], 4, hand=[("a", token)])
    assert (at.ledger.job("a") or {})["state"] == "waiting"


def test_of_two_runs_the_later_one_is_the_workers(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    earlier = at.start("a")
    at.settle()
    at.ledger.leave("w", "killed")
    at.ledger.renew("x", ["q"], 4, register=True)
    at.ledger.tick()
    later = at.start("a", "x")
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.ledger.renew("x", ["q"], 4, hand=[("a", later)]).lost == ()
    assert at.ledger.renew("w", ["q"], 4, hand=[("a", earlier)]).lost == ("a",)
    assert at.ledger.finish("a", later, "completed").answer == "done"


@pytest.mark.parametrize("worker", ["w", "x"])
def test_a_later_run_ends_although_only_the_earlier_one_is_recorded(
    at: Installation, redis_client: redis.Redis, worker: str
) -> None:
    at.submit("a", "m")
    at.start("a")
    at.settle()
    at.ledger.leave("w", "killed")
    at.ledger.renew(worker, ["q"], 4, register=True)
    at.ledger.tick()
    later = at.start("a", worker)
    redis_client.flushall()
    assert at.restorer().ensure_open()
    with pytest.raises(LedgerClosed):
        at.ledger.finish("a", later, "completed")
    assert at.ledger.renew(worker, ["q"], 4, hand=[("a", later)]).lost == ()
    assert at.ledger.holders("model:m") == {"a"}
    assert at.ledger.finish("a", later, "completed").answer == "done"
    assert at.ledger.holders("model:m") == set()


def test_tokens_grow_across_a_wipe(at: Installation, redis_client: redis.Redis) -> None:
    at.submit("a", "m")
    before = at.start("a")
    redis_client.flushall()
    assert at.restorer().ensure_open()
    at.ledger.redis.hset("coordinator:meta", "admit_at", 0)
    at.ledger.renew("w", ["q"], 4)
    at.ledger.tick()
    assert int((at.ledger.job("a") or {})["token"]) > before


def test_an_older_database_tells_what_it_knew_and_tokens_grow_with_the_epoch_it_is_given(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("ended", "m")
    at.submit("waiting", "m")
    at.settle()
    saved = at.store.unfinished()
    redis_client.flushall()
    assert at.restorer().ensure_open()
    at.ledger.redis.hset("coordinator:meta", "admit_at", 0)
    at.ledger.renew("w", ["q"], 4)
    at.ledger.tick()
    seen = at.start("ended")
    at.ledger.finish("ended", seen, "completed")
    at.submit("later", "n")
    at.settle()
    epoch = at.ledger.epoch()

    at.store.close()
    older = at.settings.data_dir / "older.db"
    at.store = Store(f"sqlite:///{older}")
    at.store.upgrade()
    assert at.store.open_epoch() == 1
    at.store.insert([item.job for item in saved])
    # Nobody compares the epoch of an open ledger with that of the database.
    assert at.restorer().ensure_open()
    assert at.ledger.epoch() == epoch
    for name in redis_client.scan_iter("coordinator:*"):
        redis_client.delete(name)
    with closing(sqlite3.connect(older)) as connection, connection:
        connection.execute("UPDATE coordinator_epochs SET epoch = ?", (epoch,))
    assert at.restorer().ensure_open()
    at.ledger.renew("w", ["q"], 4, register=True)
    at.ledger.redis.hset("coordinator:meta", "admit_at", 0)
    at.ledger.tick()
    assert at.ledger.job("later") is None
    assert (at.ledger.job("waiting") or {})["state"] == "waiting"
    assert at.start("ended") > seen


def test_who_was_frozen_while_restoring_changes_nothing(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    page = at.store.unfinished()
    redis_client.flushall()
    assert at.ledger.elect("restore", "frozen", 60_000)
    epoch = at.store.open_epoch()
    at.ledger.open(epoch, "building", ["frozen"])
    redis_client.delete("coordinator:leader:restore")
    assert at.restorer("second").ensure_open()
    present = at.ledger.epoch()
    assert present is not None
    assert present > epoch
    refused: tuple[Callable[[], object], ...] = (
        lambda: at.ledger.wipe("frozen"),
        lambda: at.ledger.open(at.store.open_epoch(), "building", ["frozen"]),
        lambda: at.ledger.restore(epoch, page),
        lambda: at.ledger.open_for_workers(epoch, []),
    )
    for step in refused:
        with pytest.raises(LedgerClosed):
            step()
    assert at.ledger.epoch() == present


def test_a_ledger_wiped_while_it_is_built_is_not_opened(
    at: Installation, redis_client: redis.Redis
) -> None:
    redis_client.flushall()
    assert at.ledger.elect("restore", "first", 60_000)
    epoch = at.store.open_epoch()
    at.ledger.open(epoch, "building", ["first"])
    redis_client.flushall()
    with pytest.raises(LedgerClosed):
        at.ledger.open_for_workers(epoch, [])
    assert at.ledger.epoch() is None


def test_a_submission_that_comes_when_the_job_is_over_runs_nothing(at: Installation) -> None:
    job = at.submit("a", "m")
    assert at.ledger.finish("a", at.start("a"), "completed").answer == "done"
    at.settle()
    admission = at.ledger.submit([job])[0]
    assert (admission.known, admission.state) == (True, "completed")
    assert 0 < at.ledger.redis.ttl("coordinator:job:a") <= 60


def test_one_overtaken_by_the_reaper_is_remembered_for_longer(at: Installation) -> None:
    job = Job("a", "task", "q", needs_of("q", ("m",), None, None), '{"headers": {"id": "x"')
    at.store.insert([job])
    at.ledger.submit([job], ["entered"])
    assert at.ledger.finish("a", at.start("a"), "completed").answer == "done"
    at.settle()
    assert at.ledger.submit([job])[0].known
    assert at.ledger.redis.ttl("coordinator:job:a") > 60


def test_machines_of_one_name_are_told_apart() -> None:
    assert "~" in machine()
    assert machine() == machine()


def test_limits_and_holds_of_operators_are_back(
    at: Installation, redis_client: redis.Redis
) -> None:
    assert at.restorer().ensure_open()
    at.ledger.limit("model:m", 3, "me")
    at.ledger.hold("queue:q", "me", "repairs")
    at.settle()
    redis_client.flushall()
    assert at.restorer().ensure_open()
    assert at.ledger.holds()["queue:q"]["reason"] == "repairs"
    assert at.ledger.redis.hget("coordinator:limits", "model:m") == "3"


@pytest.mark.parametrize(
    ("kind", "ends"), [("release", "waiting"), ("fail", "failed"), ("cancel", "canceled")]
)
def test_a_run_that_was_told_to_stop_ends_as_it_was_told(
    at: Installation, redis_client: redis.Redis, kind: str, ends: str
) -> None:
    at.submit("a", "m")
    token = at.start("a")
    if kind == "cancel":
        assert at.ledger.release("a", "its worker stops", "celery")["answer"] == "stopping"
    getattr(at.ledger, kind)("a", "as it was said", "somebody")
    at.settle()
    for _ in range(2):
        # Also by a second restore, which finds what the first one wrote.
        redis_client.flushall()
        assert at.restorer().ensure_open()
        at.settle()
    at.ledger.renew("w", ["q"], 4, hand=[("a", token)], register=True)
    assert at.ledger.finish("a", token, "released", {"reason": "stopped"}).answer == "done"
    last = at.ledger.read_events(1000)[-1]
    assert (at.ledger.job("a") or {})["state"] == ends
    if kind != "release":
        assert (last.data["reason"], last.data["by"]) == ("as it was said", "somebody")


def test_a_run_told_to_stop_in_a_way_that_is_not_known_is_released(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.cancel("a", "as an older version says it", "somebody")
    events = at.ledger.read_events(1000)
    events[-1].data.pop("stop")
    at.record(events)
    redis_client.flushall()
    assert at.restorer().ensure_open()
    at.ledger.renew("w", ["q"], 4, hand=[("a", token)], register=True)
    assert at.ledger.finish("a", token, "released", {"reason": "stopped"}).answer == "done"
    assert (at.ledger.job("a") or {})["state"] == "waiting"


def test_the_result_of_an_end_without_a_worker_is_delivered_after_the_restore(
    at: Installation, redis_client: redis.Redis
) -> None:
    at.submit("a", "m")
    at.submit("b", "m")
    at.ledger.cancel("a", "not needed", "somebody")
    # It recorded them and was killed before it came to anything else.
    at.ledger.elect("restore", "killed", TERM_MS)
    at.record(at.ledger.read_events(1000))
    at.ledger.wipe("killed")
    at.ledger.resign("restore", "killed")
    assert at.restorer().ensure_open()
    at.restorer("second").rebuild()
    delivered: list[str] = []
    recorder = Recorder(
        at.ledger, at.store, lambda event, _: delivered.append(event.job_id), "recorder"
    )
    recorder.tick()
    assert delivered == ["a"]
    assert at.ledger.read_events(1000) == []
    kinds = [entry["event_type"] for entry in at.store.audit(job_id="a")]
    assert kinds.count("canceled") == 1
    recorder.resign()


@pytest.mark.parametrize("verb", ["completed", "replaced"])
def test_an_end_that_the_store_refuses_is_no_lost_job(
    at: Installation, redis_client: Any, verb: str
) -> None:
    job = at.submit("a", "m")
    token = at.start("a")
    at.settle()
    at.ledger.finish("a", token, verb)
    events = "coordinator:events"
    ((entry, fields),) = redis_client.xrevrange(events, count=1)
    redis_client.xdel(events, entry)
    data = json.loads(fields["data"]) | {"attempts": "many"}
    redis_client.xadd(events, {**fields, "data": json.dumps(data)})
    for _ in range(2):
        at.restorer().rebuild()
    known = at.ledger.job("a") or {}
    assert known["state"] == "completed"
    assert not verify(at.ledger)
    # A canvas that replaced it still ends in its id.
    assert at.ledger.submit([job])[0].known == (verb == "completed")


def test_an_owner_keeps_what_it_held_for_no_longer_than_before_the_restore(
    at: Installation, redis_client: redis.Redis
) -> None:
    owner = "workflow-1"
    needs = needs_of("q", ("m",), None, None)
    first, second = (
        Job(name, "task", "q", needs, f'{{"headers": {{"id": "{name}"', owner=owner)
        for name in ("first", "second")
    )
    # Nobody takes the second one: its queue has no worker.
    second = replace(second, queue="r", needs=needs_of("r", ("m",), None, None))
    at.store.insert([first])
    at.ledger.submit([first])
    token = at.start("first")
    row = json.dumps(asdict(second))
    finish = at.ledger.finish("first", token, "completed", {}, second, row, keep_ms=60_000)
    assert finish.answer == "done"
    (kept,) = redis_client.zrange("coordinator:keeping", 0, -1, withscores=True)
    at.settle()
    for _ in range(2):
        redis_client.flushall()
        assert at.restorer().ensure_open()
        at.settle()
    at.ledger.renew("w", ["q"], 4, register=True)
    at.ledger.tick()
    assert at.ledger.holders("model:m") == {owner}
    assert redis_client.zrange("coordinator:keeping", 0, -1, withscores=True) == [kept]
    redis_client.hset("coordinator:meta", "clock_offset", 61_000)
    at.ledger.renew("w", ["q"], 4, register=True)
    for _ in range(2):
        at.ledger.tick()
    assert at.ledger.holders("model:m") == set()

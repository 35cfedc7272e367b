"""What the reaper mends: each difference between ledger, store and workers, and none that is merely under way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.errors import LedgerUnavailable
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.recovery.reaper import JobReaper
from coordinator.recovery.reconciliation import KINDS, Reconciler, unwritten_jobs
from coordinator.recovery.recorder import Recorder
from coordinator.resources import needs_of
from coordinator.settings import Settings
from coordinator.verification import verify
from coordinator.work_queue import WorkQueue


class Site:
    """A work queue with one worker, and a recorder that works when it is told to."""

    def __init__(self, url: str, folder: Path, durability: str = "database") -> None:
        self.queue = WorkQueue(
            Settings(redis_url=url, data_dir=folder, durability=durability, lease_seconds=30)
        )
        assert self.queue.ensure_open()
        self.ledger, self.store = self.queue.ledger, self.queue.store
        self.recorder = Recorder(self.ledger, self.store, self.deliver, "test")
        self.delivered: list[str] = []
        self.ledger.renew("w", ["q"], 4, register=True)
        self.reconciler = Reconciler(self.queue)

    def deliver(self, event: Event, row: dict[str, Any] | None) -> None:
        self.delivered.append(f"{event.job_id} {row is None}")

    def job(self, job_id: str, model: str = "m") -> Job:
        message = json.dumps({"headers": {"id": job_id}})[:-2]
        return Job(job_id, "task", "q", needs_of("q", (model,), "ann", None), message, org="ann")

    def start(self, job_id: str, worker: str = "w") -> int:
        token = int((self.ledger.job(job_id) or {})["token"])
        assert self.ledger.claim(job_id, token, f"nonce of {job_id}", worker).granted
        return token

    def mended(self, **expected: int) -> None:
        """Do a round and compare; a second one finds nothing."""
        assert self.reconciler.run() == {**dict.fromkeys(KINDS, 0), **expected}
        self.record()
        assert self.reconciler.run() == dict.fromkeys(KINDS, 0)
        if expected:
            assert self.store.audit(event="mended"), "what was mended is in the log"

    def record(self) -> None:
        while self.recorder.tick():
            pass

    def age_ends(self) -> None:
        """Make the ends that the ledger remembers look old."""
        for job_id in self.ledger.redis.zrange("coordinator:tombstones", 0, -1):
            self.ledger.redis.zadd("coordinator:tombstones", {job_id: 1})

    def lose_events(self) -> None:
        self.ledger.redis.xtrim("coordinator:events", maxlen=0, approximate=False)


@pytest.fixture
def site(redis_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(redis_url, tmp_path)
    yield site
    site.store.close()
    site.ledger.pool.disconnect()


def test_nothing_is_mended_of_what_is_under_way(site: Site) -> None:
    for number in range(6):
        site.queue.submit(site.job(f"j{number}", f"m{number % 3}"))
    site.start("j0")
    site.ledger.finish("j1", site.start("j1"), "completed")
    site.mended()
    site.record()
    site.mended()


def test_an_accepted_row_that_the_ledger_does_not_know_is_entered(site: Site) -> None:
    site.store.insert([site.job("a")])
    site.mended(jobs_entered=1)
    assert (site.ledger.job("a") or {})["state"] == "dispatched"
    (note,) = site.store.audit(event="mended")
    assert (note["who"], note["data"]["jobs"]) == ("reaper", ["a"])


def test_old_rows_are_found_in_turn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.recovery.reconciliation.BATCH", 2)
    monkeypatch.setattr("coordinator.recovery.reconciliation.PAGES_IN_TURN", 1)
    # An hour old by the producer's clock: not among the newest.
    jobs = [site.job(f"j{number}", f"m{number}") for number in range(5)]
    hour_ago = site.ledger.clock() - 3_600_000
    with site.store.writing() as connection:
        site.store._insert_rows(connection, jobs)
        table = site.store.schema.jobs
        connection.execute(table.update().values(sequence=hour_ago * 1000))
    assert [site.reconciler.enter_unknown() for _ in range(4)] == [2, 2, 1, 0]


def test_rows_that_were_just_written_outlive_a_wipe_of_redis(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ledger.submit([site.job("a")])
    site.lose_events()
    insert = site.store.insert

    def wiped(jobs: list[Job]) -> set[str]:
        new = insert(jobs)
        site.ledger.redis.flushall()
        return new

    monkeypatch.setattr(site.store, "insert", wiped)
    site.reconciler.write_rows()
    assert site.store.known(["a"]) == {"a"}, "the last that is left of it"


def test_a_job_without_a_row_gets_one(site: Site) -> None:
    site.ledger.submit([site.job("a"), site.job("b")])
    assert site.reconciler.write_rows() == 0, "its submission is not recorded yet"
    site.lose_events()
    site.mended(rows_written=2)
    (row,) = site.store.stored(["b"]).values()
    assert (row.job.needs, row.job.org, row.job.message) == (
        site.job("b").needs,
        "ann",
        site.job("b").message,
    )
    assert site.ledger.finish("a", site.start("a"), "completed").answer == "done"
    site.record()
    assert str(site.store.stored(["a"])["a"].state) == "completed"


def test_a_row_that_is_on_its_way_is_not_written_twice(redis_url: str, tmp_path: Path) -> None:
    site = Site(redis_url, tmp_path, durability="redis")
    site.queue.submit(site.job("a"))
    site.mended()
    site.record()
    assert site.store.totals()["submitted", "q", "task"] == 1
    site.mended()


def test_units_that_no_run_holds_are_given_back(site: Site) -> None:
    site.queue.submit(site.job("a"))
    site.ledger.finish("a", site.start("a"), "completed")
    site.record()
    site.queue.submit(site.job("b", "n"))
    # Of one that ended, of one that the ledger has forgotten, and of one that holds something else.
    site.ledger.redis.sadd("coordinator:holders:model:x", "a", "b")
    site.ledger.redis.sadd("coordinator:holders:model:y", "an execution")
    site.queue.submit(site.job("c", "x"))
    assert (site.ledger.job("c") or {})["state"] == "waiting"
    site.mended(units_freed=2)
    assert (site.ledger.job("c") or {})["state"] == "dispatched", "who waited for it starts"
    assert site.ledger.holders("model:x") == {"c"}
    assert site.ledger.holders("model:n") == {"b"}
    assert site.ledger.holders("model:y") == {"an execution"}, "it may be no job at all"


def test_a_run_of_a_worker_without_a_lease_is_lost(site: Site) -> None:
    site.queue.submit(site.job("a"))
    site.start("a")
    site.record()
    site.mended()
    site.ledger.redis.zrem("coordinator:workers", "w")
    site.mended(orphans_expired=1)
    assert (site.ledger.job("a") or {})["losses"] == "1"


def test_an_end_that_was_never_recorded_is_told_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.queue.submit(site.job("a"))
    site.record()
    site.ledger.finish("a", site.start("a"), "completed")
    monkeypatch.setattr("coordinator.recovery.reconciliation.END_MS", -60_000)
    assert site.reconciler.record_ends() == 0, "its event is still there"
    site.lose_events()
    site.mended(ends_recorded=1)
    assert str(site.store.stored(["a"])["a"].state) == "completed"
    assert site.store.unfinished() == []


def test_a_recorded_end_that_is_still_remembered_is_settled_and_not_counted_twice(
    site: Site,
) -> None:
    site.queue.submit(site.job("a"))
    site.ledger.finish("a", site.start("a"), "completed")
    # A recorder that is killed after its commit, and Redis that loses the events with the restart.
    site.store.record(site.ledger.read_events(100))
    site.age_ends()
    site.lose_events()
    site.mended()
    assert site.store.totals()["completed", "q", "task"] == 1
    assert site.ledger.redis.zcard("coordinator:tombstones") == 0
    assert site.ledger.submit([site.job("a")])[0].known, "a late producer runs nothing"


def test_while_workers_are_awaited_nothing_is_judged(site: Site) -> None:
    site.store.insert([site.job("a")])
    site.ledger.redis.hset("coordinator:meta", "open", "0")
    assert site.reconciler.run() == {}


def test_the_reaper_counts_what_was_mended(site: Site) -> None:
    site.store.insert([site.job("a")])
    reaper = JobReaper()
    assert reaper.run(site.queue)["jobs_entered"] == 1
    reaper.run(site.queue)
    assert (reaper.stats["jobs_entered"], reaper.stats["rounds"]) == (1, 2)


def test_reads_of_a_redis_that_is_gone_fail_as_the_ledger_does() -> None:
    gone = Ledger("redis://127.0.0.1:1", patience=0.1)
    for read in (lambda: gone.unknown(["a"]), lambda: gone.units(0), gone.clock):
        with pytest.raises(LedgerUnavailable):
            read()


def test_a_step_whose_submission_is_not_recorded_yet_is_under_way(site: Site) -> None:
    first = replace(site.job("first"), owner="workflow-1")
    site.queue.submit(first)
    token = site.start("first")
    site.record()
    # Its place in the order is that of the step before, accepted long ago.
    site.ledger.redis.hincrby("coordinator:job:first", "sequence", -10_000_000)
    second = replace(
        site.job("second"), owner="workflow-1", root_id="first", parent_id="first", timeout=5.0
    )
    site.ledger.finish("first", token, "completed", {}, second, json.dumps(asdict(second)))
    assert unwritten_jobs(site.ledger, site.store, 0) == (0, [])
    site.mended()
    (row,) = [site.store.job("second")]
    assert row is not None
    assert (row["root_id"], row["parent_id"], row["timeout"]) == ("first", "first", 5.0)
    assert not site.store.audit(event="mended")


def test_an_owner_that_has_no_job_keeps_nothing(site: Site) -> None:
    first = replace(site.job("first"), owner="workflow-1")
    site.queue.submit(first)
    site.start("first")
    site.queue.submit(site.job("other"))
    site.record()
    site.mended()
    redis = site.ledger.redis
    # As a ledger that lost the moment of its last job's end would have it.
    redis.sadd("coordinator:owned:workflow-2", "model:n", "serial")
    redis.sadd("coordinator:owners", "workflow-2")
    redis.sadd("coordinator:holders:model:n", "workflow-2")
    redis.sadd("coordinator:holders:serial", "workflow-2")
    site.queue.submit(site.job("waits", "n"))
    assert (site.ledger.job("waits") or {})["state"] == "waiting"
    assert [item.problem for item in verify(site.ledger)] == ["holds something for no job"]
    site.mended(owners_freed=1)
    (note,) = site.store.audit(event="mended")
    assert (note["why"], note["data"]["jobs"]) == ("owners", ["workflow-2"])
    assert (site.ledger.job("waits") or {})["state"] == "dispatched"
    assert site.ledger.holders("model:m") == {"workflow-1"}
    assert not verify(site.ledger)

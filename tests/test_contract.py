"""The Python interface that others script against: every name, what it takes, and the shape of its answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import coordinator
from coordinator import (
    JobReaper,
    JobReaperConfig,
    Wish,
    get_job_coordinator,
    get_queue_populator,
    get_work_queue,
)
from coordinator.errors import CoordinatorError
from coordinator.jobs import Job

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]

#: As the transport hands it over, less the end that gets the token.
MESSAGE = '{"body": "W10=", "properties": {}, "headers": {"task": "play", "id": "own-id"'


def plan() -> list[Wish]:
    return [Wish("work", "m", "play", {"model": "m"}, 2, "more games")]


@pytest.fixture
def own(desk: Desk) -> Iterator[Desk]:
    """The desk, with its app as the one of this process."""
    desk.installation.app.set_current()
    assert get_work_queue() is desk.queue
    yield desk
    desk.installation.app.set_default()


def failed(desk: Desk) -> str:
    job = desk.fail("ValueError: no", "m")
    desk.record()
    return job


def resubmitted(desk: Desk) -> None:
    job = failed(desk)
    # Nothing stands in its way, so it is on its way at once.
    assert get_work_queue().resubmit_job(job) == "dispatched"
    assert get_work_queue().get_job(job).status == "PENDING"


def submit(desk: Desk) -> None:
    job = Job("own-id", "play", "work", ("model:m", "serial", "queue:work"), MESSAGE)
    admission = get_work_queue().submit(job)
    assert (admission.job_id, admission.state) == ("own-id", "dispatched")
    assert get_work_queue().submit(job).known, "a second time it is the same job"


def get_job(desk: Desk) -> None:
    job = get_work_queue().get_job(desk.send("m", org="acme"))
    assert (job.status, job.detail, job.models, job.org) == (
        "PENDING",
        "dispatched",
        ("m",),
        "acme",
    )


def why(desk: Desk) -> None:
    first, second = desk.send("m"), desk.send("m")
    told = get_work_queue().why(second)
    assert told.reason == f"Model conflict: m in use by normal job {first}"
    assert (told.state, told.blocker, told.position) == ("waiting", first, 1)


def get_stats(desk: Desk) -> None:
    stats = get_work_queue().get_stats()
    names = "pending in_progress completed_hour failed_hour oldest_item_age_seconds"
    assert set(stats) == set(names.split())


def get_pending_count(desk: Desk) -> None:
    desk.send()
    assert get_work_queue().get_pending_count() == 1


def get_in_progress_count(desk: Desk) -> None:
    desk.start(desk.send())
    assert get_work_queue().get_in_progress_count() == 1


def get_active_workers(desk: Desk) -> None:
    (worker,) = get_work_queue().get_active_workers()
    assert worker.node == "w"
    assert worker.last_heartbeat > 1_600_000_000


def get_stuck_jobs(desk: Desk) -> None:
    desk.start(job := desk.send())
    (stuck,) = get_work_queue().get_stuck_jobs(threshold_seconds=0)
    assert (stuck.id, stuck.worker) == (job, desk.worker)
    assert stuck.claimed_at > 1_600_000_000
    assert get_work_queue().get_stuck_jobs(600) == []


def release_job(desk: Desk) -> None:
    desk.start(job := desk.send())
    assert get_work_queue().release_job(job, reason="hangs") == "stopping"
    assert desk.state(job) == "stopping"


def cancel_job(desk: Desk) -> None:
    assert get_work_queue().cancel_job(job := desk.send()) == "canceled"
    assert get_work_queue().get_job(job).status == "CANCELED"


def retry_failed(desk: Desk) -> None:
    job = failed(desk)
    done = get_work_queue().retry_failed()
    assert (done.matched, done.done) == (1, 1)
    assert desk.state(job) == "dispatched"


def get_recent_failures(desk: Desk) -> None:
    job = failed(desk)
    (failure,) = get_work_queue().get_recent_failures(limit=5)
    assert (failure.id, failure.error) == (job, "ValueError: no")


def clear_inactive_workers(desk: Desk) -> None:
    desk.ledger.leave(desk.worker)
    desk.record()
    assert get_work_queue().clear_inactive_workers(threshold_seconds=0) == 1


def purge_failed_jobs(desk: Desk) -> None:
    failed(desk)
    assert get_work_queue().purge_failed_jobs(max_age_hours=24).done == 0
    assert get_work_queue().purge_failed_jobs(max_age_hours=0).done == 1


def clear_all(desk: Desk) -> None:
    jobs = [desk.send("m"), desk.send("m")]
    assert get_work_queue().clear_all().done == 2
    assert {desk.state(job) for job in jobs} == {"canceled"}


def pause(desk: Desk) -> None:
    assert get_work_queue().pause("work", reason="upgrade", by="ann") == ("queue:work",)
    assert desk.state(desk.send()) == "waiting"


def resume(desk: Desk) -> None:
    desk.queue.pause("work")
    job = desk.send()
    assert get_work_queue().resume("work")
    assert desk.state(job) == "dispatched"


def drain(desk: Desk) -> None:
    desk.queue.pause("work")
    job = desk.send()
    assert get_work_queue().drain("work", delay_seconds=3600).done == 1
    assert desk.state(job) == "delayed"


def health_check(desk: Desk) -> None:
    report = get_work_queue().health_check()
    assert (report.is_healthy, report.message) == (True, "all queues are healthy")
    assert report.details["level"] == "healthy"


METHODS: dict[str, Callable[[Any], None]] = {
    **{
        method.__name__: method
        for method in (
            submit,
            get_job,
            why,
            get_stats,
            get_pending_count,
            get_in_progress_count,
            get_active_workers,
            get_stuck_jobs,
            release_job,
            cancel_job,
            retry_failed,
            get_recent_failures,
            clear_inactive_workers,
            purge_failed_jobs,
            clear_all,
            pause,
            resume,
            drain,
            health_check,
        )
    },
    "resubmit_job": resubmitted,
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_of_the_work_queue(own: Desk, name: str) -> None:
    method = getattr(coordinator.WorkQueue, name)
    assert method.__doc__, "promised to whoever scripts against it"
    assert inspect.signature(method).return_annotation is not inspect.Signature.empty
    METHODS[name](own)


def test_what_runs_is_told_as_a_list_and_in_serialized_mode_as_one(
    own: Desk, alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    assert get_job_coordinator().get_active_job_state() == []
    job = own.send("m")
    own.start(job)
    (active,) = get_job_coordinator().get_active_job_state()
    assert (active["active_job_id"], active["active_job_type"]) == (job, "play")
    assert active["active_models"] == ["m"]
    assert active["started_at"] > 1_600_000_000
    # The oldest first, whatever the order of their ids.
    more = [own.send(f"m{n}") for n in range(4)]
    for earlier, job_id in enumerate(more, 1):
        own.start(job_id)
        at = own.ledger.clock() - 60_000 * earlier
        own.ledger.redis.hset(f"{own.ledger.prefix}job:{job_id}", "started", at)
    told = [one["active_job_id"] for one in get_job_coordinator().get_active_job_state()]
    assert told == [*reversed(more), job]


def test_in_serialized_mode_one_job_is_told(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    alone.conf["coordinator_serialized"] = True
    desk = open_desk(alone)
    assert get_job_coordinator().get_active_job_state() is None
    first, second = desk.send("a"), desk.send("b")
    desk.start(first)
    assert get_job_coordinator().get_active_job_state()["active_job_id"] == first
    assert desk.state(second) == "waiting"
    desk.ledger.pool.disconnect()


def test_the_populator_tells_how_it_is_and_fills_at_once_or_awaited(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    alone.conf["coordinator_populator"] = f"{__name__}:plan"
    desk = open_desk(alone)
    alone.app.set_current()
    try:
        populator = get_queue_populator()
        health = populator.health_check()
        assert (health["is_healthy"], health["last_populate_time"]) == (False, None)
        assert populator.populate_all_queues().added == 2
        health = populator.health_check()
        assert (health["is_healthy"], health["items_added_hour"]) == (True, 2)
        assert health["last_populate_time"] > 1_600_000_000
        desk.queue.clear_all()
        desk.queue.pause("work")

        async def awaited() -> Any:
            return await populator.populate_all_queues(force=True)

        assert asyncio.run(awaited()).added == 2
    finally:
        alone.app.set_default()
        desk.ledger.pool.disconnect()


def test_an_app_without_wishes_has_no_populator(own: Desk) -> None:
    with pytest.raises(CoordinatorError, match="set coordinator_populator to module:function"):
        get_queue_populator()


def test_the_reaper_tells_its_last_round_and_what_it_reaped(own: Desk) -> None:
    reaper = JobReaper.get_instance()
    assert JobReaper.get_instance() is reaper
    assert not reaper.is_running
    before, config = dict(reaper.stats), reaper.config
    jobs = [own.send(name) for name in "abc"]
    for job in jobs:
        own.start(job)
        # Nothing told of progress for half an hour, as Redis would note it.
        key = f"{own.ledger.prefix}job:{job}"
        own.ledger.redis.hset(key, "progressed", own.ledger.clock() - 31 * 60_000)
    reaper.config = JobReaperConfig(
        stale_job_threshold_seconds=1800,
        stuck_job_threshold_seconds=3600,
        max_jobs_to_reap_per_cycle=2,
    )
    try:
        assert reaper.run(own.queue)["jobs_reaped"] == 2
        assert reaper.last_run_time is not None
        assert reaper.last_run_time > 1_600_000_000
        assert reaper.stats["jobs_reaped"] - before["jobs_reaped"] == 2
        assert reaper.run(own.queue)["jobs_reaped"] == 1
        assert reaper.stats["rounds"] - before["rounds"] == 2
        assert {own.state(job) for job in jobs} == {"stopping"}
    finally:
        reaper.config = config


def test_one_that_ends_while_it_is_reaped_does_not_save_the_others(
    own: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [own.send(name) for name in "abc"]
    for job in jobs:
        own.start(job)
        key = f"{own.ledger.prefix}job:{job}"
        own.ledger.redis.hset(key, "progressed", own.ledger.clock() - 31 * 60_000)
    silent = own.ledger.running()
    first = silent[0]
    assert own.ledger.finish(first["id"], int(first["token"]), "completed").answer == "done"

    # What it read a moment before.
    monkeypatch.setattr(own.ledger, "running", lambda: silent)
    assert JobReaper().reap_silent(own.queue) == 2
    assert {own.state(job) for job in jobs} == {"stopping", "completed"}


def test_a_long_job_that_does_well_is_never_reaped(own: Desk) -> None:
    job = own.send("m", timeout=86_400)
    own.start(job)
    key = f"{own.ledger.prefix}job:{job}"
    own.ledger.redis.hset(key, "started", own.ledger.clock() - 23 * 3_600_000)
    assert JobReaper().reap_silent(own.queue) == 0
    own.ledger.redis.hset(key, "started", own.ledger.clock() - 26 * 3_600_000)
    assert JobReaper().reap_silent(own.queue) == 1, "an hour and more past its own timeout"

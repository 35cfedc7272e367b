"""The operators' verbs of the work queue, one by one, on a real Redis, a real database and real messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import InvalidValue, Refused, StoreUnavailable, UnknownJob
from coordinator.messages.message import opened
from coordinator.operations.bulk import Bulk
from coordinator.recovery.recorder import NAME as RECORDER
from coordinator.selection import Selection
from coordinator.states import ALIASES, NOTED, Verb

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def noted(desk: Desk, event: str) -> list[tuple[Any, ...]]:
    """Return who, why, before and after of the notes of a bulk verb, the latest first."""
    return [
        (entry.who, entry.why, entry.before, entry.after)
        for entry in desk.queue.get_audit(event=event)
        if not entry.job_id
    ]


def test_stats_count_by_queue_and_in_all(desk: Desk) -> None:
    runs = desk.send("m")
    desk.start(runs)
    desk.send("m")
    desk.send("m", queue="training")
    desk.fail("no")
    desk.end(desk.send("x"))
    desk.record()
    stats = desk.queue.get_stats()
    assert stats.pop("oldest_item_age_seconds") >= 0
    assert stats == {"pending": 2, "in_progress": 1, "completed_hour": 1, "failed_hour": 1}
    assert desk.queue.get_stats("training")["pending"] == 1
    assert desk.queue.get_pending_count("work") == 1
    assert desk.queue.get_in_progress_count("training") == 0
    (worker,) = desk.queue.get_active_workers()
    assert (worker.node, worker.jobs, worker.assigned, worker.failed) == ("w", (runs,), 3, 1)
    assert worker.last_heartbeat > 0


def test_get_job_tells_what_the_ledger_knows_before_the_store_does(desk: Desk) -> None:
    job_id = desk.send("m", org="acme", priority=2)
    desk.start(job_id)
    job = desk.queue.get_job(job_id)
    assert (job.status, job.detail, job.worker) == ("PROCESSING", "running", desk.worker)
    assert (job.models, job.org, job.priority, job.attempts) == (("m",), "acme", 2, 1)
    assert job.job_type == job.task == "play"
    with pytest.raises(UnknownJob, match="no job 'none' is known"):
        desk.queue.get_job("none")


def test_jobs_are_listed_page_by_page_and_by_filter(desk: Desk) -> None:
    ids = [desk.send("m") for _ in range(5)]
    desk.start(ids[0])
    first = desk.queue.get_jobs(limit=2)
    second = desk.queue.get_jobs(limit=2, cursor=first[-1].cursor)
    assert [job.job_id for job in (*first, *second)] == ids[:0:-1]
    assert [job.job_id for job in desk.queue.get_jobs(status="pending", oldest_first=True)] == ids[
        1:
    ]
    assert desk.queue.get_jobs(model="other") == []
    with pytest.raises(InvalidValue, match="limit"):
        desk.queue.get_jobs(limit=0)
    with pytest.raises(InvalidValue, match="cursor"):
        desk.queue.get_jobs(cursor="x")
    with pytest.raises(InvalidValue, match="did you mean 'PENDING'"):
        desk.queue.get_jobs(status="PENDIG")


def test_a_page_that_is_short_by_what_moved_on_is_not_the_last_one(desk: Desk) -> None:
    ids = [desk.send(f"m{n}") for n in range(5)]
    desk.record()
    # Nobody records meanwhile: the store still has these as waiting.
    assert desk.ledger.elect(RECORDER, "another", 60_000)
    for job_id in ids[2:]:
        desk.start(job_id)
    page = desk.queue.get_jobs(status="PENDING", limit=2)
    assert (page, page.cursor is None) == ([], False)
    page = desk.queue.get_jobs(status="PENDING", limit=2, cursor=page.cursor)
    assert [job.job_id for job in page] == [ids[1]]
    page = desk.queue.get_jobs(status="PENDING", limit=2, cursor=page.cursor)
    assert [job.job_id for job in page] == [ids[0]]
    assert page.cursor is None


def test_an_event_that_is_never_logged_is_refused(desk: Desk) -> None:
    for wrong, meant in (
        ("pasued", "paused"),
        ("WORK_CLAIMD", "WORK_CLAIMED"),
        ("purge", "purged"),
    ):
        with pytest.raises(InvalidValue, match=f"did you mean '{meant}'"):
            desk.queue.get_audit(event=wrong)
    for event in (*NOTED, *ALIASES, *Verb):
        desk.queue.get_audit(event=event)


def test_cancel_also_what_failed_and_is_unprocessable(desk: Desk) -> None:
    failed, waits = desk.fail("no"), desk.send()
    assert desk.queue.cancel_job(waits, "not needed", "ann") == "canceled"
    assert desk.queue.cancel_job(failed, "seen", "ann") == "canceled"
    desk.record()
    assert [desk.queue.get_job(one).status for one in (failed, waits)] == ["CANCELED"] * 2
    with pytest.raises(Refused, match="it is canceled"):
        desk.queue.cancel_job(failed)
    with pytest.raises(UnknownJob):
        desk.queue.cancel_job("none")
    last = desk.queue.get_history(failed)[-1]
    assert (last.event, last.who, last.why) == ("canceled", "ann", "seen")
    done = desk.send()
    desk.end(done)
    desk.record()
    with pytest.raises(Refused, match="it is completed"):
        desk.queue.cancel_job(done)


def test_stuck_jobs_are_released_failed_or_removed(desk: Desk) -> None:
    ids = [desk.send(name) for name in "abc"]
    tokens = [desk.start(one) for one in ids]
    listed = desk.queue.get_stuck_jobs(0)
    assert sorted(job.id for job in listed) == sorted(ids)
    assert (listed[0].worker, listed[0].attempt, listed[0].state) == (desk.worker, 1, "running")
    assert listed[0].claimed_at > 0
    assert desk.queue.get_stuck_jobs(600) == desk.queue.get_stuck_jobs(0, "training") == []
    with pytest.raises(InvalidValue, match="threshold_seconds: -1"):
        desk.queue.get_stuck_jobs(-1)
    assert desk.queue.release_job(ids[0], "hangs", "ann") == "stopping"
    assert desk.queue.fail_job(ids[1], "hangs", "ann") == "stopping"
    assert desk.queue.remove_job(ids[2], "hangs", "ann") == "canceled"
    for job_id, token in zip(ids[:2], tokens, strict=False):
        desk.ledger.finish(job_id, token, "lost", {})
    desk.record()
    jobs = [desk.queue.get_job(job_id) for job_id in ids]
    assert [job.status for job in jobs] == ["PENDING", "FAILED", "CANCELED"]
    assert jobs[1].error == "hangs"
    waits = desk.send("a")
    for verb in (desk.queue.release_job, desk.queue.fail_job):
        with pytest.raises(Refused, match=r"does not run: it is (waiting|dispatched)"):
            verb(waits)
        with pytest.raises(UnknownJob):
            verb("none")
    assert desk.queue.remove_job(waits) == "canceled"
    with pytest.raises(Refused, match="it is canceled"):
        desk.queue.remove_job(waits)


def test_a_job_that_begins_while_it_is_removed_is_removed_by_force(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.send("m")
    remove, answers = desk.ledger.remove, []

    def begins(*arguments: str) -> dict[str, Any]:
        answers.append(remove(*arguments))
        if len(answers) == 1:
            desk.start(job_id)
        return answers[-1]

    monkeypatch.setattr(desk.ledger, "remove", begins)
    assert desk.queue.remove_job(job_id) == "canceled"
    assert [one["answer"] for one in answers] == ["idle", "done"]


def test_a_job_is_accepted_though_the_database_goes_away_while_the_ledger_is_opened(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.ledger.redis.flushdb()

    def away() -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(desk.ledger, "patience", 0.2)
    monkeypatch.setattr(desk.queue, "ensure_open", away)
    job_id = desk.send("m")
    assert desk.queue.store.job(job_id) is not None
    monkeypatch.undo()
    desk.queue.wait_until_open()
    assert desk.state(job_id) != "gone"


def test_progress_is_what_makes_a_job_not_stuck(desk: Desk) -> None:
    job_id = desk.send("m")
    token = desk.start(job_id)
    desk.ledger.redis.hset(
        f"{desk.ledger.prefix}job:{job_id}", "started", desk.ledger.clock() - 900_000
    )
    (stuck,) = desk.queue.get_stuck_jobs()
    assert stuck.age_seconds >= 900
    desk.ledger.progress(job_id, token, {"done": 1})
    assert desk.queue.get_stuck_jobs() == []
    (recent,) = desk.queue.get_stuck_jobs(0)
    assert (recent.age_seconds >= 900, recent.silent_seconds < 60) == (True, True)


def test_resubmit_keeps_the_retry_count_and_the_arguments(desk: Desk) -> None:
    job_id = desk.fail("no", "m", retries=3)
    desk.record()
    before = desk.queue.store.stored([job_id])[job_id]
    assert desk.queue.resubmit_job(job_id, reason="mended", by="ann") == "dispatched"
    with pytest.raises(Refused, match="is under way: it is dispatched"):
        desk.queue.resubmit_job(job_id)
    desk.record()
    after = desk.queue.store.stored([job_id])[job_id]
    assert (after.job.retries, after.attempts, after.job.message) == (3, 1, before.job.message)
    assert after.sequence > before.sequence
    job = desk.queue.get_job(job_id)
    assert (job.error, job.finished_at, job.retries) == (None, None, 3)
    desk.end(job_id)
    desk.record()
    assert desk.queue.get_job(job_id).attempts == 2
    with pytest.raises(Refused, match="submit it again as a new job"):
        desk.queue.resubmit_job(job_id)
    with pytest.raises(UnknownJob):
        desk.queue.resubmit_job("none")


def test_resubmit_with_edited_arguments_needs_what_these_need(desk: Desk) -> None:
    job_id = desk.fail("no", "old", org="acme")
    assert desk.queue.resubmit_job(job_id, args=["x"], kwargs={"model": "new"}) == "dispatched"
    desk.record()
    job = desk.queue.get_job(job_id)
    assert (job.models, job.org, job.args) == (("new",), "acme", "['x']")
    assert desk.ledger.holders("model:new") == {job_id}
    message = desk.queue.store.stored([job_id])[job_id].job.message
    assert json.loads(message + "}}")["headers"]["coordinator"]["models"] == ["new"]
    assert desk.queue.get_jobs(model="old") == []
    desk.end(job_id, "failed", "again")
    with pytest.raises(InvalidValue, match="models"):
        desk.queue.resubmit_job(job_id, kwargs={"model": "with space"})
    assert desk.state(job_id) == "failed"


def test_resubmit_drops_an_expiry_that_has_passed(desk: Desk) -> None:
    job_id = desk.send("m", expires=3600)
    desk.end(job_id, "failed", "no")
    desk.record()
    store = desk.queue.store
    with store.writing() as connection:
        table = store.schema.jobs
        connection.execute(table.update().values(expires_at=1))
    assert desk.queue.resubmit_job(job_id) == "dispatched"
    desk.record()
    job = store.stored([job_id])[job_id].job
    assert job.expires_ms == 0
    assert json.loads(job.message + "}}")["headers"]["expires"] is None


def test_redaction_hides_what_is_shown_and_not_what_runs(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    alone.conf["coordinator_redact"] = [r"secret-\w+"]
    desk = open_desk(alone)
    job_id = desk.send("m", "secret-key")
    desk.end(job_id, "failed", "no secret-key")
    desk.record()
    job = desk.queue.get_job(job_id)
    assert "secret" not in job.args + (job.error or "")
    desk.queue.resubmit_job(job_id, kwargs={"model": "n"})
    desk.record()
    job = desk.queue.get_job(job_id)
    assert "secret" not in job.args
    message = json.loads(desk.queue.store.stored([job_id])[job_id].job.message + "}}")
    assert opened(alone.app, message)[0] == ["secret-key"]


def test_retry_failed_by_error_by_queue_one_and_all(desk: Desk) -> None:
    text = desk.fail("connection to db-1 lost")
    other = desk.fail("Connection refused", queue="training")
    third = desk.fail("bad value")
    preview = desk.queue.retry_failed(dry_run=True)
    assert (preview.matched, preview.done, preview.dry_run) == (3, 0, True)
    assert {job.job_id for job in preview.sample} == {text, other, third}
    seen: list[tuple[int, int]] = []
    told = desk.queue.retry_failed(
        error="connection", reason="db is back", by="ann", progress=lambda *at: seen.append(at)
    )
    assert (told.matched, told.done, seen) == (1, 1, [(1, 1)])
    assert desk.state(text) == "dispatched"
    assert desk.queue.retry_failed(queue="training").done == 1
    assert desk.queue.retry_failed(third).done == 1
    assert desk.queue.retry_failed().matched == 0
    assert noted(desk, "resubmitted")[-1] == ("ann", "db is back", "1 jobs", "1 resubmitted")


def test_failures_and_their_patterns(desk: Desk) -> None:
    for number in range(3):
        desk.fail(f"ValueError: model {number} at /data/m{number}.pt has no 'layer{number}'")
    last = desk.fail("KeyError: 'x'")
    desk.record()
    failures = desk.queue.get_recent_failures(2)
    assert failures[0].id == last
    assert (failures[0].error, failures[0].status) == ("KeyError: 'x'", "FAILED")
    assert failures[0].failed_at >= failures[1].failed_at
    assert len(desk.queue.get_recent_failures(text="layer")) == 3
    most, least = desk.queue.get_error_patterns()
    assert (most.count, least.count) == (3, 1)
    assert most.pattern == "ValueError: model <n> at <path> has no <text>"
    assert most.first_seen <= most.last_seen
    assert most.example.startswith("ValueError: model")
    assert desk.queue.get_job(most.example_id).error == most.example
    assert desk.queue.get_error_patterns(queue="training") == []


def test_purge_forgets_old_failures_and_the_log_keeps_them(desk: Desk) -> None:
    failed, waits = desk.fail("no"), desk.send()
    desk.record()
    assert desk.queue.purge_failed_jobs(1).matched == 0
    assert desk.queue.purge_failed_jobs(0, dry_run=True).matched == 1
    seen: list[tuple[int, int]] = []
    told = desk.queue.purge_failed_jobs(
        0, reason="seen", by="ann", progress=lambda *at: seen.append(at)
    )
    assert (told.done, seen[-1]) == (1, (1, 1))
    with pytest.raises(UnknownJob):
        desk.queue.get_job(failed)
    assert desk.queue.get_job(waits).status == "PENDING"
    assert desk.queue.get_history(failed)[-1].event == "failed"
    (note,) = desk.queue.get_audit(event="purged")
    assert (note.who, note.why, note.data["jobs"]) == ("ann", "seen", 1)
    with pytest.raises(InvalidValue, match="max_age_hours: -1"):
        desk.queue.purge_failed_jobs(-1)


def test_drain_delays_or_removes_what_is_pending(desk: Desk) -> None:
    runs = desk.send("m")
    desk.start(runs)
    waits = [desk.send("m") for _ in range(3)]
    other = desk.send("m", queue="training")
    told = desk.queue.drain("work", delay_seconds=3600, reason="GPU", by="ann")
    assert (told.matched, told.done) == (3, 3)
    assert [desk.state(one) for one in (runs, *waits, other)] == [
        "running",
        *["delayed"] * 3,
        "waiting",
    ]
    desk.record()
    due = desk.queue.get_job(waits[0]).due_at
    assert due is not None
    assert due - desk.ledger.clock() / 1000 == pytest.approx(3600, abs=60)
    assert noted(desk, "drained") == [("ann", "GPU", "3 jobs", "3 drained")]
    assert desk.queue.drain("work", delay_seconds=60).skipped == {"later": 3}
    told = desk.queue.drain("work", remove=True, by="ann")
    assert (told.matched, told.done) == (3, 3)
    assert desk.state(runs) == "running"
    desk.record()
    assert desk.queue.get_job(waits[0]).status == "CANCELED"
    for wrong in ({}, {"delay_seconds": 1, "remove": True}, {"delay_seconds": -1}):
        with pytest.raises(InvalidValue, match="delay_seconds"):
            desk.queue.drain(**wrong)  # type: ignore[arg-type]  # that is the test


def test_drain_leaves_alone_what_started_meanwhile(desk: Desk) -> None:
    """The store still says that it waits; the ledger knows better."""
    job_id = desk.send("m")
    desk.record()
    desk.start(job_id)
    work = desk.queue.store.chosen(Selection(), ["dispatched"], upto=1 << 62)
    assert [row["job_id"] for row in work] == [job_id]
    assert desk.ledger.cancel(job_id, "", "", "withdraw") == {"answer": "idle", "state": "running"}
    assert desk.queue.drain(remove=True).matched == 0
    assert desk.state(job_id) == "running"


def test_bulk_verbs_go_through_more_than_one_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.operations.bulk.PAGE", 7)
    monkeypatch.setattr("coordinator.operations.bulk.STEP", 3)
    ids = [desk.send("m", org="acme" if number % 2 else None) for number in range(31)]
    seen: list[tuple[int, int]] = []
    told = desk.queue.drain(org="acme", delay_seconds=60, progress=lambda *at: seen.append(at))
    assert told == Bulk("drained", "org acme", 15, 15, {}, told.sample)
    assert seen == [(3, 15), (6, 15), (7, 15), (10, 15), (13, 15), (14, 15), (15, 15)]
    assert len(told.sample) == 7
    told = desk.queue.cancel_jobs(Selection(model="m"), reason="over", by="ann")
    assert told.done == 31
    assert {desk.state(job_id) for job_id in ids} == {"canceled"}


def test_clear_all_ends_everything_of_a_queue_or_of_all(desk: Desk) -> None:
    runs, waits, other = desk.send("m"), desk.send("m"), desk.send("n", queue="training")
    desk.start(runs)
    failed = desk.fail("no")
    assert desk.queue.clear_all("training", dry_run=True).matched == 1
    assert desk.queue.clear_all("training").done == 1
    told = desk.queue.clear_all(reason="reset", by="ann")
    assert (told.matched, told.done) == (2, 2)
    states = [desk.state(one) for one in (runs, waits, other)]
    assert states == ["stopping", "canceled", "canceled"]
    assert noted(desk, "cleared")[0] == ("ann", "reset", "2 jobs", "2 cleared")
    desk.record()
    assert desk.queue.get_job(failed).status == "FAILED"


def test_the_log_is_filtered_by_event_alias_and_author(desk: Desk) -> None:
    job_id = desk.send("m")
    desk.end(job_id)
    desk.queue.pause(model="x", by="ann", reason="why not")
    (claimed,) = desk.queue.get_audit(event="WORK_CLAIMED")
    assert (claimed.event, claimed.job_id, claimed.queue) == ("started", job_id, "work")
    (paused,) = desk.queue.get_audit(who="ann")
    assert (paused.event, paused.resource, paused.why) == ("paused", "model:x", "why not")
    story = [entry.event for entry in desk.queue.get_history(job_id)]
    assert story == ["submitted", "dispatched", "started", "completed"]
    first = desk.queue.get_audit(limit=2)
    second = desk.queue.get_audit(limit=2, cursor=first[-1].cursor)
    assert not {entry.cursor for entry in first} & {entry.cursor for entry in second}


def test_throughput_and_slow_jobs(desk: Desk) -> None:
    desk.end(desk.send("m"))
    desk.end(desk.send("m"))
    desk.fail("no")
    runs = desk.send("m")
    desk.start(runs)
    desk.send("m")
    desk.record()
    told = desk.queue.get_throughput(3600, 600)
    assert (told.submitted, told.completed, told.failed, told.retried) == (5, 2, 1, 0)
    assert told.blocked == sum(bucket.blocked for bucket in told.buckets) == 1
    assert told.per_minute == pytest.approx(2 / 60)
    assert len(told.buckets) in (6, 7)
    assert sum(bucket.completed for bucket in told.buckets) == 2
    assert told.wait_seconds is not None
    assert told.longest_wait_seconds is not None
    assert told.longest_wait_seconds >= told.wait_seconds
    assert desk.queue.get_throughput(queue="training").submitted == 0
    slow = desk.queue.get_slow_jobs()
    assert len(slow) == 4
    assert slow == sorted(slow, key=lambda job: -job.run_seconds)
    assert {job.state for job in slow} == {"running", "completed", "failed"}
    for wrong in ({"seconds": 0}, {"bucket_seconds": 0.001}):
        with pytest.raises(InvalidValue):
            desk.queue.get_throughput(**wrong)

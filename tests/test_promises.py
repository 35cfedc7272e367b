"""What is promised in words and shown as a whole nowhere else.

The story in the log, retries and what is shown meanwhile, stalled jobs, a triggered queue, retention on schedule.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually

if TYPE_CHECKING:
    from click.testing import Result

    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def test_the_log_tells_the_story_of_two_jobs(
    alone: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "coordinator")
    gate = alone.gate()
    with alone.worker(concurrency=1) as worker:
        first = alone.play(["wait", gate], model="m")
        second = alone.play(model="m")
        alone.open(gate)
        alone.becomes(second, "completed")
        # Told when it is done, and therefore a moment later.
        eventually(lambda: worker.said(f"job {second.id} completed, checking for next"))
        lines = worker.log.read_text().splitlines()
    conflict = f"Model conflict: m in use by normal job {first.id}"
    told = [one.getMessage() for one in caplog.records if one.name == "coordinator"]
    assert [line for line in told if first.id in line or second.id in line] == [
        f"[COORDINATOR] checking whether job {first.id} can start with models m",
        f"[COORDINATOR] no active job stands in the way, job {first.id} starts immediately",
        f"[COORDINATOR] checking whether job {second.id} can start with models m",
        f"[COORDINATOR] model conflict detected: {conflict}",
        f"[COORDINATOR] job {second.id} blocked at position 1: {conflict}",
    ]
    story = [line.partition("[COORDINATOR] ")[2] for line in lines]
    assert [line for line in story if first.id in line or second.id in line] == [
        f"active job set: {first.id} with models m",
        f"job {first.id} completed, checking for next",
        f"found 1 queued, starting {second.id}",
        f"active job set: {second.id} with models m",
        f"job {second.id} completed, checking for next",
    ]


def test_below_the_story_nothing_is_told_when_the_level_is_higher(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "coordinator")
    desk.send("m")
    assert caplog.messages == []


def test_retries_come_after_the_delays_that_are_told_and_are_shown_as_processing(
    alone: Installation,
) -> None:
    """A tenth of the default delays: 1, 2 and 4 s are what the settings say when they say nothing."""
    delays = [0.1, 0.2, 0.4]
    queue = alone.work_queue
    with alone.worker(concurrency=1):
        result = alone.task("play").apply_async((["fail", "ValueError"],), retry_delays=delays)
        alone.becomes(result, "unprocessable")
    # The worker that was killed a moment ago was the recorder.
    eventually(queue.catch_up, 30)
    told = queue.get_history(result.id)
    assert [one.event for one in told if one.event in ("started", "retried", "unprocessable")] == [
        *("started", "retried") * 3,
        *("started", "unprocessable"),
    ]
    starts = [one.at for one in told if one.event == "started"]
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(gap >= delay - 0.01 for gap, delay in zip(gaps, delays, strict=True)), gaps
    record = queue.get_job(result.id)
    assert (record.status, record.retries, record.attempts) == ("UNPROCESSABLE", 3, 4)


def test_between_two_runs_a_job_is_processing_with_its_count(alone: Installation) -> None:
    with alone.worker(concurrency=1):
        result = alone.task("play").apply_async((["fail", "ValueError"],), retry_delays=[3600])
        alone.becomes(result, "delayed")
    record = alone.work_queue.get_job(result.id)
    assert (record.status, record.detail, record.retries) == ("PROCESSING", "retry 1", 1)


def test_a_job_of_a_silent_worker_is_stalled_and_then_waits(desk: Desk) -> None:
    lease = int(desk.queue.settings.lease_seconds)
    assert lease == 30
    job = desk.send("m")
    desk.start(job)
    desk.ledger.tick()
    assert desk.queue.get_stalled_jobs() == []
    # Not heard of for six seconds, as Redis would note it.
    desk.ledger.redis.hincrby(f"{desk.ledger.prefix}worker:{desk.worker}", "seen", -6000)
    assert desk.queue.get_stalled_jobs() == [job]
    assert desk.state(job) == "running"
    # The clock goes on in steps: a gap in it says that everything was asleep, and nobody is blamed for that.
    states = []
    for second in range(1, lease + 6):
        desk.ledger.redis.hset(f"{desk.ledger.prefix}meta", "clock_offset", second * 1000)
        desk.ledger.tick()
        states.append(desk.state(job))
    assert states[lease - 3] == "running", "not before its lease is over"
    assert states[-1] == "waiting"
    assert desk.queue.get_stalled_jobs() == []
    desk.record()
    assert desk.queue.get_job(job).losses == 1


@pytest.mark.parametrize("until_empty", [False, True])
def test_trigger_works_off_one_job_or_all(
    desk: Desk, call: Callable[..., Result], until_empty: bool
) -> None:
    installation, gate = desk.installation, desk.installation.gate()
    call("pause", "work")
    first = desk.send("m")
    last = desk.send("m", ["wait", gate])
    with installation.worker(concurrency=1):
        if until_empty:
            installation.open(gate)
        options = ("--until-empty",) if until_empty else ()
        words = ("trigger", "-Q", "work", "--resume", "--timeout", "60s", "--json", *options)
        told = json.loads(call(*words).stdout)
        before, after = told["before"], told["after"]
        assert (before["total"], before["queue_running"]) == (2, False)
        assert after["queue_running"]
        assert (after["total"], after["failed"]) == (0 if until_empty else 1, 0)
        installation.becomes(first, "completed")
        installation.open(gate)
        installation.becomes(last, "completed")
    assert desk.queue.get_holds() == []


def test_a_batch_with_trigger_resumes_and_works_off_what_it_sent(
    desk: Desk, call: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "jobs.json"
    variants = [{"kwargs": {"model": name}} for name in "mmn"]
    path.write_text(json.dumps({"base": {"task": "play"}, "variants": variants}))
    call("pause", "work")
    with desk.installation.worker(concurrency=1):
        call("submit", "--config", str(path), "--trigger", "--json")
        jobs = desk.queue.get_jobs()
        assert [one.status for one in jobs] == ["COMPLETED"] * 3
    assert desk.queue.get_holds() == []


def test_a_batch_file_names_only_what_is_allowed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COORDINATOR_ALLOWED_COMMANDS", "echo")
    desk: Desk = request.getfixturevalue("desk")
    call: Callable[..., Result] = request.getfixturevalue("call")

    @desk.installation.app.task(
        name="command", allow_listed={"command": "allowed_commands"}, shared=False
    )
    def command(command: list[str]) -> None:
        pass

    path = tmp_path / "jobs.json"
    sent = {"rm": 2, "echo": 0}
    for word, code in sent.items():
        base = {"task": "command", "kwargs": {"command": [word, "x"]}}
        path.write_text(json.dumps({"base": base, "variants": [{}]}))
        told = call("submit", "--config", str(path), "--json", code=code)
        assert ("coordinator_allowed_commands" in told.stderr) == bool(code)
    assert desk.queue.get_pending_count() == 1


def test_retention_is_on_beats_schedule_and_takes_what_is_old(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    assert alone.app.conf.beat_schedule["coordinator.prune"]["schedule"] == 3600
    settings = alone.app.coordination.settings
    assert (settings.log_days, settings.finished_days) == (7, 30)
    desk = open_desk(alone)
    job = desk.send("m")
    desk.end(job)
    desk.record()
    prune: Any = alone.app.tasks["coordinator.prune"]
    assert (prune()["events"], prune()["jobs"]) == (0, 0), "of today"
    assert len(desk.queue.get_history(job)) == 4
    desk.ledger.pool.disconnect()


def test_retention_of_no_days_leaves_what_is_unfinished(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> None:
    alone.conf["coordinator_log_days"] = alone.conf["coordinator_finished_days"] = 0
    desk = open_desk(alone)
    done, runs = desk.send("m"), desk.send("n")
    desk.end(done)
    desk.record()
    prune: Any = alone.app.tasks["coordinator.prune"]
    removed = prune()
    assert (removed["jobs"], removed["events"] > 4) == (1, True)
    assert desk.queue.store.job(done) is None
    assert desk.queue.get_job(runs).status == "PENDING"
    (entry,) = desk.queue.get_audit(event="pruned")
    assert (entry.who, entry.why) == ("beat", "retention")
    desk.ledger.pool.disconnect()

"""Workers as operators see and steer them: listed, forgotten, drained, scaled; and Celery's remote control."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import InvalidValue, Refused, StoreUnavailable
from coordinator.work_queue import WorkQueue
from coordinator.workers import WorkerRecord
from tests.helpers import ROOT, eventually, free_port

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def record(queue: WorkQueue, node: str) -> WorkerRecord:
    (found,) = [one for one in queue.get_workers() if one.node == node]
    return found


def test_what_each_worker_has_done(desk: Desk) -> None:
    desk.end(desk.send())
    desk.fail("x")
    runs, late = desk.send(), desk.send()
    desk.start(runs)
    desk.queue.pause("work")
    assert desk.ledger.claim(late, desk.token(late), "n9", desk.worker).answer == "held"
    assert desk.ledger.claim("unknown", 1, "n10", desk.worker).answer == "stale"
    found = record(desk.queue, "w")
    assert (found.state, found.slots, found.jobs) == ("live", 10, (runs,))
    assert (found.assigned, found.completed, found.failed) == (3, 1, 1)
    assert found.pull_failures == 2
    assert found.queues == ("training", "work")
    assert 0 <= found.age < 30


def test_the_gone_are_told_of_until_they_are_forgotten(desk: Desk) -> None:
    desk.ledger.renew("w2/here/2/2", ("work",), 1, register=True)
    desk.record()
    desk.ledger.leave("w2/here/2/2")
    desk.record()
    assert record(desk.queue, "w2").state == "left"
    assert [one.node for one in desk.queue.get_workers(inactive=False)] == ["w"]
    assert desk.queue.clear_inactive_workers(3600) == 0
    assert desk.queue.clear_inactive_workers(0, dry_run=True) == 1
    assert desk.queue.clear_inactive_workers(0, by="ann") == 1
    assert [one.node for one in desk.queue.get_workers()] == ["w"]
    (entry,) = desk.queue.get_audit(event="workers_forgotten")
    assert (entry.who, entry.data["workers"]) == ("ann", ["w2"])
    with pytest.raises(InvalidValue):
        desk.queue.clear_inactive_workers(-1)


def test_a_drained_worker_takes_nothing_new_and_ends_what_it_runs(alone: Installation) -> None:
    queue = alone.work_queue
    with alone.worker(concurrency=2) as worker:
        gate = alone.gate()
        runs = alone.play(["wait", gate])
        alone.starts(runs)
        queue.drain_worker(worker.node, reason="kernel", by="ann")
        waits = alone.play()
        assert record(queue, worker.node).state == "draining"
        assert alone.state(waits) == "waiting"
        assert "no live worker" in queue.why(waits.id).reason
        alone.open(gate)
        alone.becomes(runs, "completed")
        assert alone.runs(waits) == 0
        queue.resume_worker(worker.node)
        alone.becomes(waits, "completed")
        assert record(queue, worker.node).state == "live"
        with pytest.raises(InvalidValue, match="did you mean"):
            queue.drain_worker(worker.node[:-1])
    told = [one.event for one in queue.get_audit() if one.event.startswith("worker_")]
    assert {"worker_drained", "worker_resumed"} <= set(told)


def test_slots_grow_and_shrink_while_jobs_run(alone: Installation) -> None:
    queue = alone.work_queue
    with alone.worker(concurrency=1) as worker:
        gate = alone.gate()
        jobs = [alone.play(["wait", gate]) for _ in range(3)]
        alone.starts(jobs[0])
        assert queue.scale_queue("work", 3, dry_run=True).workers == {worker.node: 3}
        told = queue.scale_queue("work", 3, reason="rush", by="ann")
        assert (told.before, told.after, told.done, told.errors) == (1, 3, True, {})
        for job in jobs:
            alone.starts(job)
        assert record(queue, worker.node).slots == 3
        busy = queue.scale_queue("work", 1, seconds=2.5)
        assert (busy.after, busy.done) == (3, False), "no running job is ended"
        alone.open(gate)
        for job in jobs:
            alone.becomes(job, "completed")
        assert queue.scale_queue("work", 1).done
        assert [alone.runs(job) for job in jobs] == [1, 1, 1]
        after = [alone.play() for _ in range(5)]
        for job in after:
            alone.becomes(job, "completed")
        with pytest.raises(InvalidValue, match="count"):
            queue.scale_queue("work", 0)
        with pytest.raises(Refused, match="no live worker"):
            queue.scale_queue("selfplay", 1)
    entries = queue.get_audit(event="scaled")
    assert [(one.before, one.after) for one in reversed(entries)] == [
        ("1 slots", "3 slots"),
        ("3 slots", "3 slots"),
        ("3 slots", "1 slots"),
    ]


def test_two_workers_share_the_slots_and_a_pool_that_cannot_says_so(alone: Installation) -> None:
    queue = alone.work_queue
    with alone.worker(concurrency=1) as one, alone.worker(concurrency=1, pool="threads") as other:
        told = queue.scale_queue("work", 5, dry_run=True)
        assert sorted(told.workers.values()) == [2, 3]
        with pytest.raises(InvalidValue, match="at least 2"):
            queue.scale_queue("work", 1)
        told = queue.scale_queue("work", 4)
        assert not told.done
        assert list(told.errors) == [other.node]
        assert "as many slots as it began with" in told.errors[other.node]
        assert (record(queue, one.node).slots, told.after) == (2, 3)


def test_celery_inspect_and_control(alone: Installation) -> None:
    with alone.worker(concurrency=1) as worker:
        control = alone.app.control

        def ask(command: str, **arguments: Any) -> Any:
            replies = control.broadcast(
                command, arguments=arguments, reply=True, timeout=10, limit=1
            )
            return replies[0][worker.node]

        model, gate = alone.model(), alone.gate()
        runs = alone.play(["wait", gate], model=model)
        waits = alone.play(model=model)
        alone.starts(runs)
        assert ask("coordinator_status")["work"]["running"] == 1
        held = ask("locks")[f"model:{model}"]
        assert (held["held_by"], held["waiting"]) == ([runs.id], 1)
        (blocked,) = ask("waiting")
        assert blocked["id"] == waits.id
        answer = ask("why", job_id=waits.id)
        assert answer["reason"] == f"Model conflict: {model} in use by normal job {runs.id}"
        assert "no job" in ask("why", job_id="nobody")["error"]
        assert "ok" in ask("pause_queue", queue="work", reason="test")
        (hold,) = alone.work_queue.get_holds()
        assert (hold.resource, hold.by, hold.reason) == ("queue:work", "celery control", "test")
        assert ask("coordinator_status")["work"]["paused"].startswith("by celery control since ")
        assert "did you mean 'work'" in ask("pause_queue", queue="wrok")["error"]
        assert "error" in ask("pause_queue")
        assert "ok" in ask("resume_queue", queue="work")
        assert alone.work_queue.get_holds() == []
        assert "error" in ask("scale_pool", slots=0)
        alone.open(gate)
        alone.becomes(waits, "completed")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("inspect", ("coordinator_status", "locks", "waiting", "why")),
        ("control", ("pause_queue", "resume_queue", "drain_worker", "scale_pool")),
    ],
)
@pytest.mark.parametrize("option", ["--help", "--list"])
def test_celerys_help_tells_of_the_commands(kind: str, names: tuple[str, ...], option: str) -> None:
    command = [sys.executable, "-m", "celery", "-A", "tasks", kind, option]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names:
        line = next(line for line in shown.splitlines() if line.strip().startswith(name))
        assert len(line.split()) > 4, line


def test_live_workers_are_shown_without_a_database(desk: Desk) -> None:
    """The operator looks at workers when something is wrong."""
    missing = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    bare = WorkQueue(replace(desk.queue.settings, database_url=missing))
    with pytest.raises(StoreUnavailable):
        bare.store.workers()
    assert [one.node for one in bare.get_workers()] == ["w"]
    bare.ledger.pool.disconnect()


def test_nobody_is_told_without_an_app(desk: Desk) -> None:
    bare = WorkQueue(desk.queue.settings)
    with pytest.raises(InvalidValue, match="one of w"):
        bare.drain_worker("nobody")
    bare.ledger.pool.disconnect()


def test_a_worker_that_does_not_answer_is_named(desk: Desk) -> None:
    """It has a lease, and no process: it died a moment ago."""
    with pytest.raises(Refused, match="worker w: it did not answer"):
        desk.queue.drain_worker("w")
    eventually(lambda: record(desk.queue, "w").state == "live")

"""Executions of workflows in the store, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.jobs import Event, Job
from coordinator.resources import needs_of
from coordinator.store import Store

OWNER = "workflow-1"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    own = Store(url, redact=["hidden"])
    own.upgrade()
    yield own
    own.close_idle()


def job(step: str, owner: str = OWNER, **more: Any) -> Job:
    needs = needs_of("q", ["a", "b"])
    return Job(f"{owner}.{step}", "task", "q", needs, '{"headers":{', owner=owner, **more)


def insert(store: Store, owner: str = OWNER, at: int = 1_000, hold: str = "workflow") -> bool:
    row = {
        "execution_id": owner,
        "workflow": "flow",
        "required_models": ["a", "b"],
        "hold": hold,
        "steps": 2,
        "inputs": {"model": "a", "secret": "hidden"},
        "requested_by": "ann",
        "reason": None,
        "queued_at": at,
    }
    steps = [
        {
            "position": number,
            "step": step,
            "task": "task",
            "queue": "q",
            "model": "a",
            "models": ["a"],
            "job_id": f"{owner}.{step}",
        }
        for number, step in enumerate(("one", "two"), 1)
    ]
    return store.insert_execution(row, steps, job("one", owner, submitted_ms=at))


def move(store: Store, job_id: str, state: str, **more: Any) -> None:
    """Bring a job to a state, as the recorder would."""
    ended = 5_000 if state in ("completed", "failed", "canceled") else None
    values = {"state": state, "finished_at": ended, "token": 1, "worker": "w", **more}
    table = store.schema.jobs
    with store.writing() as connection:
        connection.execute(sa.update(table).where(table.c.job_id == job_id).values(values))


def standing(store: Store) -> tuple[Any, ...]:
    row = store.execution(OWNER)
    assert row is not None
    return row["state"], row["current_step"], row["finished_at"]


def test_an_execution_is_what_its_jobs_are(store: Store) -> None:
    assert insert(store)
    assert not insert(store), "known already"
    assert standing(store) == ("waiting", "one", None)
    (row,) = store.executions()
    assert row["inputs"] == {"model": "a", "secret": "[redacted]"}
    assert row["required_models"] == ["a", "b"]
    move(store, f"{OWNER}.one", "running", started_at=2_000)
    assert standing(store) == ("running", "one", None)
    move(store, f"{OWNER}.one", "completed")
    assert standing(store) == ("waiting", "one", None), "the next step is about to be recorded"
    assert store.stranded_executions(5_001) == [(OWNER, f"{OWNER}.two")]
    assert store.stranded_executions(5_000) == []
    store.insert([job("two")])
    assert standing(store) == ("waiting", "two", None)
    assert store.stranded_executions(9_000) == []
    move(store, f"{OWNER}.two", "failed", error="broken")
    assert standing(store) == ("failed", "two", 5_000)
    assert [step["state"] for step in store.execution_steps(OWNER)] == ["completed", "failed"]
    assert [row["execution_id"] for row in store.executions(states=["failed"])] == [OWNER]
    assert store.executions(workflow="other") == []


def test_pages_of_executions(store: Store) -> None:
    for number in range(3):
        assert insert(store, f"workflow-{number}", at=1_000)
    first = store.executions(limit=2)
    assert [row["execution_id"] for row in first] == ["workflow-2", "workflow-1"]
    last = first[-1]["queued_at"], first[-1]["execution_id"]
    (row,) = store.executions(limit=2, cursor=last)
    assert row["execution_id"] == "workflow-0"


def test_the_end_outlives_the_jobs(store: Store) -> None:
    """Also when the job that failed is gone and the one before is still there."""
    insert(store)
    move(store, f"{OWNER}.one", "completed")
    store.insert([job("two")])
    move(store, f"{OWNER}.two", "failed", error="broken")
    assert store.seal_executions() == 1
    assert store.seal_executions() == 0
    store.withdraw([f"{OWNER}.two"])
    assert standing(store) == ("failed", "one", 5_000)
    assert store.forget_executions(9_000) == 0, "a job is left"
    store.withdraw([f"{OWNER}.one"])
    assert standing(store) == ("failed", "one", 5_000)
    assert store.forget_executions(5_000) == 0
    assert store.forget_executions(9_000) == 1
    assert store.execution(OWNER) is None
    assert store.execution_steps(OWNER) == []


def test_an_execution_that_lost_its_next_step_is_failed(store: Store) -> None:
    insert(store)
    move(store, f"{OWNER}.one", "completed")
    store.end_execution(OWNER, "lost", 7_000)
    assert standing(store) == ("failed", "one", 7_000)
    assert store.stranded_executions(9_000) == []


def test_one_that_was_refused_is_taken_back(store: Store) -> None:
    insert(store)
    store.withdraw_execution(OWNER, f"{OWNER}.one")
    assert store.execution(OWNER) is None
    assert store.job(f"{OWNER}.one") is None


def test_a_restore_knows_until_when_owners_keep_what_they_hold(store: Store) -> None:
    insert(store)
    insert(store, "workflow-2")
    store.insert([job("two"), job("two", "workflow-2")])
    store.open_epoch()
    data = {"state": "waiting", "sequence": 1}
    submissions = [(OWNER, {**data, "keep_until": 9_000}), ("workflow-2", data)]
    store.record(
        [
            Event(1, f"{number}-0", "submitted", f"{owner}.two", 1, number, said)
            for number, (owner, said) in enumerate(submissions, 1)
        ]
    )
    assert store.hold_ends() == {OWNER: 9_000}
    move(store, f"{OWNER}.two", "completed")
    assert store.hold_ends() == {}


def test_a_restore_claims_what_owners_held(store: Store) -> None:
    kept = ("model:a", "model:b", "serial")
    insert(store)
    assert store.claims() == {}, "not begun"
    move(store, f"{OWNER}.one", "running", dispatched_at=2_000)
    assert store.claims() == {OWNER: kept}
    move(store, f"{OWNER}.one", "completed", dispatched_at=2_000)
    assert store.claims() == {}
    store.insert([job("two")])
    assert store.claims() == {OWNER: kept}
    store.open_epoch()
    store.note("disowned", "coordinator", "it waited too long", job_id=f"{OWNER}.two")
    assert store.claims() == {}, "given back"
    insert(store, "workflow-2", hold="step")
    move(store, "workflow-2.one", "completed", dispatched_at=2_000)
    store.insert([job("two", "workflow-2")])
    assert store.claims() == {}, "each step holds its own"
    # The lock of a canvas, of which the store knows the jobs alone.
    store.insert([job("one", "workflow-3"), job("two", "workflow-3")])
    move(store, "workflow-3.one", "completed", dispatched_at=2_000)
    assert store.claims() == {"workflow-3": kept}

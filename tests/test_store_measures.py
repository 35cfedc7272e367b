"""Measures: durations and counts that the recorder's transaction adds up, for metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.jobs import Event, Job
from coordinator.resources import needs_of
from coordinator.store import Store
from coordinator.store.measures import BOUNDS_MS, BUCKETS, SUM
from tests.test_store import empty, histories

NOW = 1_700_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.upgrade()
    yield store
    store.close()


class Story:
    """Events of one ledger, each at a moment (milliseconds after the beginning)."""

    def __init__(self) -> None:
        self.number, self.versions = 0, dict[str, int]()

    def tell(self, at: int, verb: str, job_id: str = "a", **data: Any) -> Event:
        self.number += 1
        self.versions[job_id] = self.versions.get(job_id, 0) + 1
        return Event(
            1, f"{NOW + at}-{self.number}", verb, job_id, self.versions[job_id], NOW + at, data
        )

    def start(self, at: int, admitted: int, attempts: int = 1, job_id: str = "a") -> list[Event]:
        given = {"token": attempts, "worker": "w"}
        return [
            self.tell(admitted, "dispatched", job_id, state="dispatched", token=attempts),
            self.tell(at, "started", job_id, state="running", attempts=attempts, **given),
        ]

    def submit(self, at: int = 0, job_id: str = "a", **more: Any) -> Event:
        data = {"state": "waiting", "sequence": str((NOW + at) * 1000), **more}
        return self.tell(at, "submitted", job_id, **data)


def make(job_id: str = "a", model: str | None = "m", org: str | None = None) -> Job:
    models = [model] if model else []
    return Job(
        job_id=job_id,
        task="task",
        queue="q",
        needs=needs_of("q", models, org),
        message="{}",
        org=org,
    )


def measured(store: Store, name: str) -> dict[str, int]:
    return {label: value for (known, _, label), value in store.measures().items() if known == name}


def test_a_run_that_was_blocked_on_a_model(store: Store) -> None:
    store.insert([make(org="acme")])
    story = Story()
    reason = "Model conflict: m in use by normal job b"
    store.record(
        [
            story.submit(),
            story.tell(0, "blocked", resource="model:m", holders=["b"], reason=reason, position=1),
            *story.start(7_020, admitted=7_000),
            story.tell(9_000, "completed", state="completed", runtime_ms=1_900),
        ]
    )
    assert measured(store, "wait") == {"10000": 1, SUM: 7_020}
    assert measured(store, "lock_wait") == {"10000": 1, SUM: 7_000}
    assert measured(store, "handoff") == {"25": 1, SUM: 20}
    assert measured(store, "lock_hold") == {"2500": 1, SUM: 2_000}
    assert measured(store, "run") == {"2500": 1, SUM: 1_900}
    assert measured(store, "blocked") == {"model": 1}
    assert measured(store, "org_started") == {"acme": 1}
    assert measured(store, "org_waited") == {"acme": 7_020}
    assert measured(store, "org_completed") == {"acme": 1}
    assert store.totals()["completed", "q", "task"] == 1
    assert not any(name.startswith("measure") for name, _, _ in store.totals())


def test_a_wait_ends_with_the_first_start_and_begins_when_a_job_may_start(store: Store) -> None:
    store.insert([make(model=None)])
    story = Story()
    store.record(
        [
            story.submit(state="delayed", due_ms=NOW + 60_000),
            story.tell(60_000, "promoted", state="waiting"),
            *story.start(60_100, admitted=60_050),
            story.tell(61_000, "retried", state="delayed", due_ms=NOW + 99_000, retries=1),
            story.tell(99_000, "promoted", state="waiting"),
            *story.start(99_900, admitted=99_800, attempts=2),
            story.tell(100_000, "failed", state="failed", error="x"),
        ]
    )
    assert measured(store, "wait") == {"100": 1, SUM: 100}
    assert measured(store, "handoff") == {"50": 1, "100": 1, SUM: 150}
    assert measured(store, "lock_hold") == {}, "it holds no model"
    assert measured(store, "lock_wait") == {}


def test_what_never_ran_took_nothing(store: Store) -> None:
    store.insert([make(org="acme")])
    story = Story()
    store.record([story.submit(), story.tell(50, "canceled", state="canceled", by="me")])
    assert store.measures() == {}


def test_durations_fall_into_the_first_bucket_that_holds_them() -> None:
    assert len(BUCKETS) == len(BOUNDS_MS) + 1
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))


def test_a_day_and_more_has_a_bucket(store: Store) -> None:
    store.insert([make()])
    story = Story()
    end = BOUNDS_MS[-1] + 20
    store.record(
        [
            story.submit(),
            *story.start(10, admitted=5),
            story.tell(end, "failed", state="failed", error="x", runtime_ms=end - 10),
        ]
    )
    assert measured(store, "run") == {"inf": 1, SUM: end - 10}
    assert measured(store, "wait") == {"10": 1, SUM: 10}, "a bound belongs to its bucket"


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), data=st.data())
def test_batches_and_repetitions_measure_the_same(
    store: Store, history: tuple[list[Job], list[Event]], data: st.DataObject
) -> None:
    jobs, events = history
    empty(store)
    store.insert(jobs)
    store.record(events)
    expected = store.measures()
    empty(store)
    store.insert(jobs)
    left = list(events)
    while left:
        size = data.draw(st.integers(1, len(left)))
        store.record(left[:size])
        if data.draw(st.booleans()):
            store.record(left[:size])
        left = left[size:]
    assert store.measures() == expected


def test_what_workers_count_is_added_up_for_ever(store: Store) -> None:
    def keep(epoch: int, *workers: tuple[str, int, int]) -> None:
        reports = [
            {"id": name, "node": name, "pool": "q", "seen": "1", "refused": refused, "fenced": n}
            for name, refused, n in workers
        ]
        store.keep_workers(reports, epoch, 1_000, 10_000)

    keep(1, ("w1/1", 2, 0), ("w2/1", 0, 1))
    keep(1, ("w1/1", 3, 0), ("w2/1", 0, 1))
    # Redis was wiped: the ledger counts refused claims from nothing; a worker its own goes on.
    keep(2, ("w1/1", 1, 0), ("w2/1", 0, 2))
    # An older report comes late.
    keep(2, ("w2/1", 0, 1))
    assert sum(measured(store, "refused_claims").values()) == 4
    assert sum(measured(store, "fenced").values()) == 2

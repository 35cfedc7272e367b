"""Conditions and what they are judged by, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import InvalidValue
from coordinator.resources import needs_of
from coordinator.store import Store
from tests.test_store import NOW, Stream, job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/x.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    own = Store(url)
    own.upgrade()
    yield own
    own.close()


class History:
    """Jobs that have ended, as a ledger would have told it."""

    def __init__(self, store: Store) -> None:
        self.store, self.stream = store, Stream()

    def ended(
        self, job_id: str, how: str, *, integration: str | None = None, by: str | None = None
    ) -> None:
        """Keep a job that ended in a way, by itself or by somebody's hand."""
        one = job(job_id)
        self.store.insert([replace(one, needs=needs_of(one.queue, integration=integration))])
        begun = self.stream.run(job_id)[:3]
        self.stream.versions[job_id] = 3
        data = {"state": how, "token": 7, "worker": "w1", **({"by": by} if by else {})}
        if how == "failed":
            # The quotes of an error are not the name of who ended it.
            data["error"] = 'no key "by" in it'
        self.store.record([*begun, self.stream.event(how, job_id, **data)])


@pytest.fixture
def history(store: Store) -> History:
    return History(store)


def test_a_condition_is_kept_replaced_and_dropped(store: Store) -> None:
    store.set_condition("breaker", "queue:work", "open", 5, {"trips": 1})
    store.set_condition("alert", "queue:work", "warning", 6, {})
    store.set_condition("breaker", "queue:work", "closed", 7, {"trips": 0, "until_ms": None})
    (found,) = store.conditions("breaker").values()
    assert (found.name, found.state, found.since) == ("queue:work", "closed", 7)
    assert found.data == {"trips": 0, "until_ms": None}
    store.drop_condition("breaker", "queue:work")
    store.drop_condition("breaker", "queue:work")
    assert store.conditions("breaker") == {}
    assert set(store.conditions("alert")) == {"queue:work"}
    with pytest.raises(InvalidValue, match="one of breaker, alert, populator"):
        store.set_condition("braker", "x", "open", 1, {})


def test_outcomes_are_of_the_integration_or_else_of_the_queue(
    store: Store, history: History
) -> None:
    history.ended("a", "completed", integration="db")
    history.ended("b", "failed", integration="db")
    history.ended("c", "unprocessable", integration="db2")
    history.ended("d", "failed")
    history.ended("e", "failed", by="ann")
    history.ended("f", "canceled")
    queue = f"queue:{job('x').queue}"
    assert store.outcomes(NOW) == {
        "integration:db": (1, 1),
        "integration:db2": (0, 1),
        queue: (0, 1),
    }
    assert store.outcomes(NOW + 60_000) == {}


def test_probes_are_completed_runs_begun_since(store: Store, history: History) -> None:
    for number in range(3):
        history.ended(f"a{number}", "completed", integration="db")
    history.ended("b", "completed", integration="db2")
    history.ended("c", "failed", integration="db")
    assert store.probes("integration:db", NOW) == 3
    assert store.probes("integration:d", NOW) == 0
    assert store.probes("integration:db", NOW + 60_000) == 0
    last = store.last_completion()
    assert last is not None
    assert NOW <= last < NOW + 60_000


def test_failures_in_a_row_end_with_one_that_succeeded(store: Store, history: History) -> None:
    one = job("x")
    key = one.queue, one.models[0] if one.models else None, one.task
    assert store.failures_in_a_row(*key) == (0, 0)
    history.ended("a", "completed")
    for job_id in "bcd":
        history.ended(job_id, "failed")
    number, at = store.failures_in_a_row(*key)
    assert number == 3
    assert at >= NOW
    assert store.failures_in_a_row("other", *key[1:])[0] == 0

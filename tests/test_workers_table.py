"""The store's table of workers: who is live, what they did, and who is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.errors import LedgerClosed, StoreUnavailable
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.recovery.roster import Enrolment, Roster, versions
from coordinator.resources import needs_of
from coordinator.store import Store
from tests.helpers import eventually

W, X = "w@h/m/1/1", "x@h/m/2/2"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    own = f"sqlite:///{tmp_path / 'store.db'}"
    store = Store(own if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    store.upgrade()
    yield store
    store.close()


def _said(verb: str, worker: str, at_ms: int, **data: object) -> Event:
    return Event(1, f"{at_ms}-0", verb, "", 0, at_ms, {"worker": worker, **data})


def _states(store: Store) -> dict[str, str]:
    return {row.worker: row.state for row in store.workers()}


def _report(worker: str, seen: int, **counts: int) -> dict[str, object]:
    return {"id": worker, "pool": "a b", "slots": "3", "since": "5", "seen": str(seen), **counts}


def test_who_came_and_went(store: Store) -> None:
    store.enrol_worker(W, ["b", "a"], 3, {"python": "3"}, 1000)
    events = [
        _said("worker_joined", W, 1001, queues="a b", slots=3),
        _said("worker_joined", X, 1002, queues="a", slots=1),
        _said("worker_left", X, 1003, reason="left"),
    ]
    for _ in range(2):
        # Recorded twice, should the recorder die in between.
        assert store.note_workers(events) == 3
        assert _states(store) == {W: "live", X: "left"}
    assert store.live_workers() == ({W}, 0)
    found = {row.worker: row for row in store.workers()}[W]
    assert (found.node, found.queues, found.slots) == ("w@h", ("a", "b"), 3)
    assert (found.versions, found.first_heartbeat, found.last_heartbeat) == (
        {"python": "3"},
        1000,
        1001,
    )


def test_an_end_from_before_it_came_back_changes_nothing(store: Store) -> None:
    store.note_workers([_said("worker_joined", W, 2000)])
    store.note_workers([_said("worker_expired", W, 1999, reason="its lease ended")])
    assert _states(store) == {W: "live"}
    store.note_workers([_said("worker_expired", W, 2001, reason="its lease ended")])
    assert _states(store) == {W: "expired"}
    store.note_workers([_said("worker_joined", W, 2002)])
    assert _states(store) == {W: "live"}


def test_damaged_events_are_left_out(store: Store) -> None:
    assert store.note_workers([Event(1, "1-0", "worker_left", "", 0, 1, {"worker": 7})]) == 0
    assert store.note_workers([Event(1, "1-0", "worker_joined", "", 0, 1, {})]) == 0


def test_what_the_ledger_counts_is_added_up_over_epochs(store: Store) -> None:
    def keep(epoch: int, at: int, **counts: int) -> tuple[int, int, int]:
        store.keep_workers([_report(W, at, **counts)], epoch, at, 1000)
        (row,) = store.workers()
        return row.assigned, row.completed, row.failed

    assert keep(1, 100, assigned=3, completed=2, failed=1) == (3, 2, 1)
    assert keep(1, 200, assigned=5, completed=3, failed=1) == (5, 3, 1)
    assert keep(1, 300, assigned=5, completed=3, failed=1) == (5, 3, 1)
    # A new life of Redis counts from nothing; so does a worker that registered again.
    assert keep(2, 400, assigned=2, completed=1, failed=0) == (7, 4, 1)
    assert keep(2, 500, assigned=1, completed=0, failed=0) == (8, 4, 1)


def test_a_worker_that_is_drained_keeps_the_queues_it_served(store: Store) -> None:
    store.keep_workers([_report(W, 100)], 1, 100, 1000)
    store.keep_workers([{**_report(W, 200), "pool": ""}], 1, 200, 1000)
    (row,) = store.workers()
    assert (row.queues, row.last_heartbeat) == (("a", "b"), 200)


def test_a_live_row_that_the_ledger_does_not_know_has_gone(store: Store) -> None:
    store.enrol_worker(W, ["a"], 1, {}, 1000)
    store.enrol_worker(X, ["a"], 1, {}, 9500)
    # X has enrolled a moment ago and registers only now.
    assert store.keep_workers([], 1, 10_000, 1000) == 1
    assert _states(store) == {W: "expired", X: "live"}
    assert store.live_workers() == ({X}, 10_000)
    # Redis's clock was set back by an hour: what lies ahead of it is no sign of life.
    assert store.keep_workers([_report(W, 500)], 1, 600, 1000) == 1
    assert _states(store) == {W: "live", X: "expired"}


def test_retention_forgets_workers_that_are_gone(store: Store) -> None:
    day = 24 * 3600 * 1000
    for number, state in enumerate(("worker_left", "worker_expired", "worker_joined")):
        store.note_workers([_said("worker_joined", f"{number}@h/m/1/1", 1000)])
        store.note_workers([_said(state, f"{number}@h/m/1/1", 1001)])
    assert [row.state for row in store.inactive_workers(60, 1000 + 60_000)] == ["left", "expired"]
    assert store.inactive_workers(61, 1000 + 60_000) == []
    assert store.prune(at_ms=1000 + 31 * day, dry_run=True).workers == 2
    assert store.prune(at_ms=1000 + 31 * day).workers == 2
    assert _states(store) == {"2@h/m/1/1": "live"}


def test_the_roster_keeps_what_the_ledger_knows(store: Store, redis_url: str) -> None:
    ledger = Ledger(redis_url)
    ledger.open(store.open_epoch())
    ledger.renew(W, ["q"], 2, register=True)
    ledger.submit([Job("a", "t", "q", needs_of("q", ("m",), None, None), '{"headers": {"id": "a"')])
    token = int((ledger.job("a") or {})["token"])
    assert ledger.claim("a", token, "nonce", W).granted
    roster = Roster(ledger, store)
    assert roster.tick()
    assert not roster.tick(), "not at each of the recorder's rounds"
    (row,) = store.workers()
    assert (row.worker, row.state, row.queues, row.slots, row.assigned) == (W, "live", ("q",), 2, 1)
    known, at = store.live_workers()
    assert known == {W}
    assert abs(at - ledger.clock()) < 10_000
    ledger.redis.hset("coordinator:meta", "open", "0")
    assert not Roster(ledger, store).tick(), "who has not reported yet is live all the same"


def test_a_worker_that_cannot_enrol_waits_until_a_restore_waits_for_anybody() -> None:
    tries: list[int] = []

    def enrol() -> None:
        tries.append(1)
        if len(tries) < 2:
            raise StoreUnavailable("down")

    enrolment = Enrolment(enrol)
    before = enrolment.may_fetch
    enrolment.start()
    eventually(lambda: enrolment.may_fetch, 5)
    assert not before
    assert enrolment.enrolled
    assert len(tries) == 2
    alone = Enrolment(enrol)
    alone._alone_at = 0.0
    assert alone.may_fetch
    assert not alone.enrolled


def test_settings_that_could_not_be_brought_at_the_start_are_brought_later() -> None:
    tries: list[str] = []

    def configure() -> None:
        tries.append("configure")
        if len(tries) < 3:
            raise LedgerClosed("not yet")

    enrolment = Enrolment(lambda: tries.append("enrol"), configure)
    enrolment.start()
    eventually(lambda: not enrolment.is_alive(), 10)
    assert tries == ["enrol", "configure", "configure"]


def test_versions_name_what_a_worker_runs_on() -> None:
    assert {"python", "celery", "redis"} <= versions().keys()

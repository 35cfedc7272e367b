"""The store: accepted jobs and what happened to them survive replays, races, forks and full disks.

``StoreContract`` holds for every database; ``test_store_postgres`` runs it on PostgreSQL.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.errors import InvalidSetting, InvalidValue, StoreUnavailable
from coordinator.jobs import Event, Job
from coordinator.resources import needs_of
from coordinator.states import FINAL, TRANSITIONS, State, Verb
from coordinator.store import Recorded, RowRefused, Store, forks, recording
from coordinator.store.measures import PREFIX
from tests.helpers import eventually

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000


def job(job_id: str, *models: str, **options: Any) -> Job:
    given: dict[str, Any] = {
        "task": "tasks.play",
        "queue": "selfplay",
        "message": '{"body":"W10="',
        "args_repr": "('go',)",
        "kwargs_repr": "{}",
        "submitted_ms": NOW,
        **options,
    }
    needs = needs_of(given["queue"], models, given.get("org"))
    return Job(job_id=job_id, needs=needs, **given)


class Stream:
    """Events as a ledger would write them: ids and versions grow."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch, self.part = epoch, 0
        self.versions: dict[str, int] = {}

    def event(self, verb: str, job_id: str = "a", **data: Any) -> Event:
        self.part += 1
        version = self.versions.get(job_id, 0)
        if "state" in data:
            version = self.versions[job_id] = version + 1
        at = NOW + self.part // 3
        return Event(self.epoch, f"{at}-{self.part % 3}", verb, job_id, version, at, data)

    def run(self, job_id: str = "a", *, token: int = 7, worker: str = "w1") -> list[Event]:
        held = {"token": token, "worker": worker}
        return [
            self.event("submitted", job_id, state="waiting", sequence=str(NOW * 1000 + self.part)),
            self.event("dispatched", job_id, state="dispatched", token=str(token)),
            self.event("started", job_id, state="running", attempts=1, **held),
            self.event("completed", job_id, state="completed", result="5", runtime_ms=9, **held),
        ]


def accepted(store: Store, jobs: list[Job]) -> None:
    """Insert jobs, each time with the same guess of their place in the order."""
    store.insert(jobs)
    with store.writing() as connection:
        connection.execute(sa.update(store.schema.jobs).values(sequence=NOW * 1000))


def tables(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that recording writes, but the measures: these look at the order of events."""
    with store.reading() as connection:
        return {
            table.name: sorted(
                (
                    tuple(row)
                    for row in connection.execute(sa.select(table))
                    if not str(row[0]).startswith(PREFIX)
                ),
                key=repr,
            )
            for table in (
                store.schema.jobs,
                store.schema.models,
                store.schema.events,
                store.schema.totals,
            )
        }


def empty(store: Store) -> None:
    with store.writing() as connection:
        for table in reversed(store.schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Job], list[Event]]:
    """Jobs and a stream of what happened to them: every order of moves that the ledger may make."""
    stream, events = Stream(), []
    jobs = [
        job(f"j{number}", *("m", "n")[: number % 3]) for number in range(draw(st.integers(1, 3)))
    ]
    states: dict[str, tuple[State, int]] = {}
    runs: dict[str, dict[str, Any]] = {}
    for step in range(draw(st.integers(1, 14))):
        chosen = draw(st.sampled_from(jobs))
        if chosen.job_id not in states:
            states[chosen.job_id] = (State.WAITING, 0)
            data: dict[str, Any] = {"state": "waiting", "sequence": str(NOW * 1000 + step)}
            events.append(stream.event("submitted", chosen.job_id, **data))
            blocked: dict[str, Any] = {
                "holders": ["other"],
                "reason": "Model conflict",
                "position": step,
            }
            events.append(stream.event("blocked", chosen.job_id, **blocked))
            continue
        state, retries = states[chosen.job_id]
        moves = sorted((verb, after) for before, verb, after in TRANSITIONS if before == state)
        if not moves:
            continue
        verb, after = draw(st.sampled_from(moves))
        data = {"state": after.value, "reason": f"step {step}", "by": "somebody"}
        data |= of_run(verb, after, step, runs.setdefault(chosen.job_id, {}))
        if verb is Verb.EXPIRED:
            data |= {"losses": step}
        if verb in (Verb.RETRIED, Verb.REPLACED) and after is not State.COMPLETED:
            retries += 1
            data |= {"retries": retries, "error": f"error {step}", "due_ms": NOW + step}
        if verb is Verb.DRAINED:
            data |= {"due_ms": NOW + step}
        if verb in (Verb.RESUBMITTED, Verb.REPLACED) and draw(st.booleans()):
            successor = job(chosen.job_id, "new", f"m{step}", args_repr=f"({step},)")
            data["row"] = row_of(successor)
        if after in FINAL:
            data |= {"error": f"error {step}", "result": f"result {step}", "runtime_ms": step}
        states[chosen.job_id] = (after, retries)
        events.append(stream.event(verb, chosen.job_id, **data))
        if draw(st.booleans()):
            resource = {
                "resource": "queue:selfplay",
                "by": "op",
                "before": 1,
                "after": {"limit": 2},
            }
            events.append(stream.event("limit_set", "", **resource))
    return jobs, events


def of_run(verb: Verb, after: State, step: int, run: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says of the run it belongs to; ``run`` is the last one of its job."""
    if verb is Verb.STARTED:
        run |= {"worker": f"w{step}", "token": str(step + 1)}
        return {**run, "attempts": step}
    if after is State.DISPATCHED:
        return {"token": str(step + 1)}
    return dict(run) if after in (State.RUNNING, State.STOPPING) else {}


def row_of(successor: Job) -> dict[str, Any]:
    return {name: getattr(successor, name) for name in Job.__dataclass_fields__}


def upgrade_at_once(url: str, start: float) -> bool:
    """Wait for the moment and upgrade; runs in a process of its own."""
    import time

    while time.time() < start:
        pass
    store = Store(url)
    store.upgrade()
    return store.status().up_to_date


def plans(store: Store, action: Callable[[], object]) -> list[str]:
    """Return the query plan of every statement that ``action`` runs."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    action()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if store.dialect == "sqlite" else "EXPLAIN "
    found = []
    with store.reading() as connection:
        for statement, parameters in seen:
            rows = connection.exec_driver_sql(explain + statement, parameters).all()
            found.append("\n".join(str(row[-1]) for row in rows))
    return found


class StoreContract:
    """What holds on every database; ``store`` is a fresh one."""

    # -- accepting -----------------------------------------------------------------------------------

    def test_a_job_comes_back_as_it_was_accepted(self, store: Store) -> None:
        given = job(
            "a",
            "m1",
            "m2",
            org="acme",
            priority=2,
            max_retries=-1,
            due_ms=NOW + 5,
            expires_ms=NOW + 50,
            timeout=1.5,
            heartbeat_timeout=60.0,
            retries=1,
            root_id="r",
            parent_id="p",
            owner="w",
        )
        begun = time.time_ns() // 1000
        assert store.insert([given]) == {"a"}
        (stored,) = store.unfinished()
        assert stored.job == given
        assert (stored.state, stored.version, stored.epoch) == (State.DELAYED, 0, 0)
        assert begun <= stored.sequence <= time.time_ns() // 1000 + 1
        assert store.stored(["a", "unknown"]) == {"a": stored}

    def test_jobs_of_one_moment_keep_the_order_in_which_they_were_accepted(
        self, store: Store
    ) -> None:
        one_by_one = [f"{n * 7919 % 100:02}" for n in range(100)]
        for job_id in one_by_one:
            store.insert([job(job_id)])
        batch = [f"batch-{n * 7919 % 100:02}" for n in range(100)]
        store.insert([job(job_id) for job_id in batch])
        outbox = ["z", "y", "x"]
        with store.writing() as connection:
            store.insert_in(connection, [job(job_id) for job_id in outbox])
        everything = [*one_by_one, *batch, *outbox]
        assert [row["job_id"] for row in store.jobs(limit=300)] == everything[::-1]
        assert [one.job.job_id for one in store.unfinished(limit=300)] == everything

    def test_a_known_id_is_left_alone(self, store: Store) -> None:
        assert store.insert([job("a")]) == {"a"}
        assert store.insert([job("a", queue="training")]) == set()
        assert store.insert([job("a"), job("b", "m"), job("b"), job("c")]) == {"b", "c"}
        assert store.insert([]) == set()
        assert store.known(["a", "b", "z"]) == {"a", "b"}
        row = store.job("a")
        assert row is not None
        assert row["queue"] == "selfplay"

    def test_a_batch_is_accepted_whole_or_not_at_all(self, store: Store) -> None:
        with pytest.raises(RowRefused):
            store.insert([job("a"), job("b", priority=10)])
        with pytest.raises(RowRefused):
            store.insert([job("c", priority=10)])
        assert store.known(["a", "b", "c"]) == set()

    def test_many_producers_at_once_accept_each_job_once(self, store: Store) -> None:
        batches = [
            [job(f"j{n}", "m", "n") for n in random.sample(range(60), 20)] for _ in range(12)
        ]
        with ThreadPoolExecutor(6) as pool:
            accepted = list(pool.map(store.insert, batches))
        ids = {item.job_id for batch in batches for item in batch}
        assert sum(map(len, accepted)) == len(ids)
        assert set().union(*accepted) == ids == {item.job.job_id for item in store.unfinished()}

    def test_jobs_are_accepted_inside_the_transaction_of_the_caller(self, store: Store) -> None:
        with store.engine.connect() as connection:
            assert store.insert_in(connection, [job("a", "m", "n"), job("b")]) == {"a", "b"}
            connection.rollback()
        assert store.known(["a", "b"]) == set()
        from sqlalchemy.orm import Session

        with Session(store.engine) as session:
            assert store.insert_in(session, [job("a", "m", "n"), job("a")]) == {"a"}
            session.commit()
        assert store.known(["a", "b"]) == {"a"}

    def test_secrets_are_taken_out_before_anything_is_stored(
        self, make: Callable[..., Store]
    ) -> None:
        store = make(redact=[r"password=(?P<secret>\w+)", r"token-\d+"])
        store.insert([job("a", args_repr="('password=hunter2',)", kwargs_repr="{'t': 'token-99'}")])
        stream = Stream()
        store.record(stream.run()[:3])
        failed: dict[str, Any] = {"state": "failed", "extra": {"deep": ["token-99"]}}
        failed["error"] = "no password=hunter2"
        store.record([stream.event("failed", **failed)])
        store.progress({"a": "token-99"})
        row = store.job("a")
        assert row is not None
        assert row["args_repr"] == "('password=[redacted]',)"
        assert row["kwargs_repr"] == "{'t': '[redacted]'}"
        assert row["error"] == "no password=[redacted]"
        assert not re.search("hunter2|token-99", json.dumps([row, store.history("a")]))

    def test_texts_that_no_database_takes_are_mended(self, store: Store) -> None:
        store.insert([job("a", args_repr="nul \0 and half \ud800")])
        row = store.job("a")
        assert row is not None
        assert row["args_repr"] == "nul \ufffd and half \ufffd"

    # -- recording -----------------------------------------------------------------------------------

    def test_a_run_is_recorded(self, store: Store) -> None:
        store.insert([job("a", "m")])
        events = Stream().run()
        assert store.record(events) == Recorded(new=4, known=0, moved=1)
        row = store.job("a")
        assert row is not None
        shown = {
            "state": "completed",
            "status": "COMPLETED",
            "detail": "",
            "job_type": "tasks.play",
            "worker": "w1",
            "token": 7,
            "attempts": 1,
            "result": "5",
            "error": None,
            "sequence": NOW * 1000,
            "dispatched_at": events[1].at_ms,
            "started_at": events[2].at_ms,
            "last_heartbeat": events[2].at_ms,
            "finished_at": events[3].at_ms,
            "epoch": 1,
            "version": 4,
        }
        assert {name: row[name] for name in shown} == shown
        assert [
            (e["event_type"], e["before"], e["after"], e["who"]) for e in store.history("a")
        ] == [
            ("submitted", None, "waiting", None),
            ("dispatched", "waiting", "dispatched", None),
            ("started", "dispatched", "running", "w1"),
            ("completed", "running", "completed", "w1"),
        ]
        assert store.totals() == {
            ("submitted", "selfplay", "tasks.play"): 1,
            ("dispatched", "selfplay", "tasks.play"): 1,
            ("started", "selfplay", "tasks.play"): 1,
            ("completed", "selfplay", "tasks.play"): 1,
            ("runtime_ms", "selfplay", "tasks.play"): 9,
        }

    def test_what_blocked_a_job_is_kept_and_its_position_goes_when_it_starts(
        self, store: Store
    ) -> None:
        store.insert([job("a", "m")])
        stream = Stream()
        first = stream.event("submitted", state="waiting", sequence="5")
        reason = "Model conflict: m in use by normal job b"
        blocked: dict[str, Any] = {
            "resource": "model:m",
            "holders": ["b"],
            "reason": reason,
            "position": 3,
        }
        store.record([first, stream.event("blocked", **blocked)])
        row = store.job("a")
        assert row is not None
        asked = ("blocked_by_job_id", "conflict_reason", "queue_position")
        assert [row[name] for name in asked] == ["b", reason, 3]
        store.record([stream.event("dispatched", state="dispatched", token="1")])
        row = store.job("a")
        assert row is not None
        assert [row[name] for name in asked] == ["b", reason, None]

    def test_a_resubmitted_job_goes_on_with_its_new_definition(self, store: Store) -> None:
        store.insert([job("a", "m1", "m2")])
        stream = Stream()
        store.record([*stream.run()[:3], stream.event("failed", state="failed", error="no")])
        again = row_of(job("a", "m3", "m4", message="new", args_repr="(2,)", submitted_ms=1))
        store.record([stream.event("resubmitted", state="waiting", by="op", row=again)])
        stored = store.stored(["a"])["a"]
        assert (stored.job.message, stored.job.models, stored.state) == (
            "new",
            ("m3", "m4"),
            "waiting",
        )
        assert stored.queued_ms == NOW
        assert [row["job_id"] for row in store.jobs(model="m4")] == ["a"]
        assert store.jobs(model="m2") == []
        row = store.job("a")
        assert row is not None
        assert (row["error"], row["finished_at"]) == (None, None)
        assert "message" not in json.dumps(store.history("a")), "the log keeps no definitions"

    def test_a_job_without_a_row_gets_it_from_its_event(self, store: Store) -> None:
        stream = Stream()
        own = row_of(job("a", "m1", "m2", due_ms=NOW + 9))
        submitted = stream.event(
            "submitted", state="delayed", sequence="7", due_ms=NOW + 9, row=own
        )
        promoted = stream.event("promoted", state="waiting")
        assert store.record([promoted]).moved == 0, "no row to move"
        store.record([submitted])
        stored = store.stored(["a"])["a"]
        assert (stored.state, stored.sequence, stored.version) == (State.WAITING, 7, 2)
        assert [row["job_id"] for row in store.jobs(model="m2")] == ["a"]
        store.record([submitted, promoted])
        assert store.stored(["a"]) == {"a": stored}

    def test_an_older_epoch_never_moves_a_row_back(self, store: Store) -> None:
        store.insert([job("a")])
        store.record(
            [Event(3, f"{NOW}-0", "restored", "a", 1, NOW, {"state": "waiting", "sequence": 9})]
        )
        store.record(Stream(epoch=2).run())
        stored = store.stored(["a"])["a"]
        assert (stored.state, stored.epoch, stored.version, stored.sequence) == ("waiting", 3, 1, 9)
        assert stored.token == 7, "what no newer event has set is filled in"

    @settings(
        max_examples=40,
        suppress_health_check=[
            # The store is emptied for each example; the class runs once per kind of database.
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(history=histories(), data=st.data())
    def test_any_replay_gives_the_same_tables(
        self, store: Store, history: tuple[list[Job], list[Event]], data: st.DataObject
    ) -> None:
        jobs, events = history
        empty(store)
        accepted(store, jobs)
        assert store.record(events).new == len(events)
        expected = tables(store)
        empty(store)
        accepted(store, jobs)
        shuffled = data.draw(st.permutations(events))
        twice = shuffled + data.draw(st.lists(st.sampled_from(events), max_size=10))
        versions: dict[str, tuple[int, int]] = {}
        while twice:
            size = data.draw(st.integers(1, len(twice)))
            batch, twice = twice[:size], twice[size:]
            store.record(batch)
            for stored in store.stored([item.job_id for item in jobs]).values():
                version = stored.epoch, stored.version
                assert version >= versions.get(stored.job.job_id, (0, 0))
                versions[stored.job.job_id] = version
            if data.draw(st.booleans()):
                twice = batch[len(batch) // 2 :] + twice
                assert store.record(batch) == Recorded(known=len(set(map(key, batch))))
        assert tables(store) == expected

    def test_recorders_at_once_record_each_event_once(self, store: Store) -> None:
        jobs = [job(f"j{number}") for number in range(30)]
        store.insert(jobs)
        stream = Stream()
        events = [event for item in jobs for event in stream.run(item.job_id)]
        batches = [events[start : start + 40] for start in range(0, len(events), 20)]
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(store.record, batches))
        assert sum(item.new for item in done) == len(events)
        assert store.totals()["completed", "selfplay", "tasks.play"] == 30
        assert store.counts() == {"completed": 30}

    @pytest.mark.parametrize(
        "broken",
        [
            {"verb": "started", "data": {"state": "running", "attempts": 1}},
            {"verb": "dispatched", "data": {"state": "asleep"}},
            {"verb": "dispatched", "data": {"state": "dispatched", "token": "many"}},
            {"verb": "", "data": {}},
            {"verb": "submitted", "data": {"state": "waiting", "row": {"job_id": "a"}}},
            {"verb": "submitted", "data": {"state": "waiting", "sequence": 1 << 70}},
            {"verb": "completed", "data": {"state": "completed", "runtime_ms": "soon"}},
        ],
        ids=str,
    )
    def test_a_batch_with_a_damaged_event_changes_nothing(
        self, store: Store, broken: Mapping[str, Any]
    ) -> None:
        store.insert([job("a")])
        stream = Stream()
        good = stream.event("submitted", state="waiting", sequence="5")
        before = tables(store)
        bad = Event(1, f"{NOW + 9}-0", broken["verb"], "a", 9, NOW + 9, broken["data"])
        with pytest.raises(RowRefused):
            store.record([good, bad])
        assert tables(store) == before
        store.set_aside(bad, "told why")
        store.set_aside(bad, "told why")
        (row,) = store.poison()
        assert (row["event_id"], row["error"]) == (bad.event_id, "told why")
        assert json.loads(row["event"])["data"] == broken["data"]

    # -- listing -------------------------------------------------------------------------------------

    def test_jobs_are_listed_by_filter_and_page(self, store: Store) -> None:
        queues, orgs = ("selfplay", "training"), ("acme", None)
        jobs = [
            job(f"j{n:02}", *("m1", "m2", "m3")[: n % 4], queue=queues[n % 2], org=orgs[n % 3 == 0])
            for n in range(24)
        ]
        store.insert(jobs)
        stream = Stream()
        store.record(
            [
                stream.event("submitted", item.job_id, state="waiting", sequence=n)
                for n, item in enumerate(jobs)
            ]
        )
        store.record(
            [
                stream.event("dispatched", "j00", state="dispatched", token=1),
                stream.event("started", "j00", state="running", token=1, worker="w", attempts=1),
                stream.event("dispatched", "j01", state="dispatched", token=2),
                stream.event("started", "j01", state="running", token=2, worker="w", attempts=1),
                stream.event(
                    "retried", "j01", state="delayed", retries=1, due_ms=NOW, error="disk full"
                ),
            ]
        )

        def ids(**filters: Any) -> list[str]:
            return [row["job_id"] for row in store.jobs(limit=100, **filters)]

        def expected(test: Callable[[Job], bool]) -> list[str]:
            return [item.job_id for item in reversed(jobs) if test(item)]

        assert ids() == [item.job_id for item in reversed(jobs)]
        assert ids(oldest_first=True) == ids()[::-1]
        assert ids(queue="training") == expected(lambda item: item.queue == "training")
        assert ids(org="acme") == expected(lambda item: item.org == "acme")
        for model in ("m1", "m2", "m3", "m9"):
            own = [item.job_id for item in reversed(jobs) if model in item.models]
            assert ids(model=model) == own
        assert ids(status="processing") == ["j01", "j00"]
        assert ids(status="PENDING") == expected(lambda item: item.job_id not in ("j00", "j01"))
        assert ids(status="PENDING", queue="training", model="m3", org="acme") == expected(
            lambda item: item.org == "acme" and "m3" in item.models and item.job_id != "j01"
        )
        assert ids(states=["running"]) == ["j00"]
        assert ids(text="disk") == ["j01"]
        assert ids(text="j0%") == []
        with pytest.raises(InvalidValue, match="did you mean 'PENDING'"):
            store.jobs(status="PENDIN")
        with pytest.raises(InvalidValue, match="states"):
            store.jobs(states=["nap"])
        for oldest_first in (False, True):
            paged: list[str] = []
            page = store.jobs(status="pending", limit=5, oldest_first=oldest_first)
            while page:
                paged += [row["job_id"] for row in page]
                place = (page[-1]["sequence"], page[-1]["job_id"])
                page = store.jobs(
                    status="pending", limit=5, cursor=place, oldest_first=oldest_first
                )
            assert paged == ids(status="pending", oldest_first=oldest_first)
        assert store.counts() == {"waiting": 22, "running": 1, "delayed": 1}
        assert store.counts("training") == {"waiting": 11, "delayed": 1}

    def test_a_stopping_run_says_how_it_was_last_told_to_end(self, store: Store) -> None:
        stream, told = Stream(), {"by": "ann", "state": "stopping"}
        store.insert([job("a"), job("b"), job("c")])
        for name in "abc":
            store.record(stream.run(name)[:3])
        store.record(
            [
                stream.event("stopping", "a", stop="release", reason="its worker stops", **told),
                stream.event("stopping", "a", stop="fail", reason="it hangs", **told),
                stream.event("stopping", "b", reason="as an older version says it", **told),
            ]
        )
        stops = {item.job.job_id: item.stop for item in store.unfinished()}
        assert stops == {"a": ("fail", "it hangs", "ann"), "b": None, "c": None}

    def test_unfinished_jobs_come_in_their_order_page_by_page(self, store: Store) -> None:
        store.insert([job(f"j{number}", submitted_ms=NOW - number % 4) for number in range(25)])
        stream = Stream()
        store.record([event for number in (3, 4, 5) for event in stream.run(f"j{number}")])
        found, page = [], store.unfinished(limit=7)
        while page:
            found += page
            page = store.unfinished(page[-1].cursor, 7)
        assert len(found) == 22
        assert [item.cursor for item in found] == sorted(item.cursor for item in found)

    def test_failures_and_their_errors(self, store: Store) -> None:
        stream = Stream()
        ends = ["failed", "unprocessable", "failed", "completed", "canceled"]
        store.insert([job(f"j{n}") for n in range(len(ends))])
        for number, end in enumerate(ends):
            events = stream.run(f"j{number}")[:3]
            error = "disk full" if number else "out of memory"
            store.record([*events, stream.event(end, f"j{number}", state=end, error=error)])
        assert [row["job_id"] for row in store.failures()] == ["j2", "j1", "j0"]
        assert [row["job_id"] for row in store.failures(limit=1)] == ["j2"]
        assert [row["job_id"] for row in store.failures(text="memory")] == ["j0"]
        assert store.failures(queue="training") == []
        summary = {row["error"]: row["jobs"] for row in store.errors()}
        assert summary == {"disk full": 2, "out of memory": 1}
        assert store.completed_since(NOW) == 1
        assert store.failed_since(NOW) == 3
        assert store.failed_since(NOW, "training") == 0
        assert store.failed_since(NOW + DAY) == 0

    def test_the_log_is_filtered_and_exported(self, store: Store) -> None:
        store.insert([job("a"), job("b")])
        stream = Stream()
        held = {"resource": "queue:training", "by": {"user": "ann"}, "reason": "repair"}
        events = [*stream.run("a"), stream.event("paused", "", **held), *stream.run("b")]
        store.record(events)
        newest = [event.event_id for event in events[::-1]]
        assert [row["event_id"] for row in store.audit()] == newest
        assert [row["event_id"] for row in store.audit(event="WORK_CLAIMED")] == [
            event.event_id for event in events[::-1] if event.verb == "started"
        ]
        (paused,) = store.audit(resource="queue:training")
        assert (paused["who"], paused["why"], paused["queue"]) == (
            '{"user": "ann"}',
            "repair",
            "training",
        )
        assert len(store.audit(job_id="a", who="w1")) == 2
        assert len(store.audit(since_ms=NOW + 1, until_ms=NOW + 2)) == 3
        page = store.audit(limit=4)
        rest = store.audit(cursor=(page[-1]["ordinal"], page[-1]["event_id"]))
        assert [row["event_id"] for row in page + rest] == newest
        lines = [json.loads(line) for line in store.export(page=2)]
        assert [line["event_id"] for line in lines] == newest[::-1]
        assert lines[4]["data"] == held
        assert len(list(store.export(since_ms=NOW + 1, until_ms=NOW + 2))) == 3

    def test_the_oldest_pending_job_has_an_age(self, store: Store) -> None:
        assert store.oldest_pending_age() is None
        store.insert([job("a")])
        age = store.oldest_pending_age("selfplay")
        assert age is not None
        assert age > 1000
        assert store.oldest_pending_age("training") is None

    # -- operating -----------------------------------------------------------------------------------

    def test_epochs_only_grow_whoever_opens_them(self, store: Store) -> None:
        assert store.epoch() == 0
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda _: store.open_epoch(), range(20)))
        assert sorted(opened) == list(range(1, 21))
        assert store.epoch() == 20

    def test_what_operators_set_is_kept_from_the_events(self, store: Store) -> None:
        stream = Stream()
        hold = {"resource": "queue:q", "by": "ann", "reason": "repair"}
        limit = {"resource": "model:m", "by": "bob", "reason": "", "after": "3"}
        events = [
            stream.event("paused", "", **hold, until_ms=NOW + DAY),
            stream.event("limit_set", "", **{**limit, "after": "2"}),
            stream.event("paused", "", resource="serial", by="ann"),
            stream.event("limit_set", "", **limit, before="2"),
            stream.event("resumed", "", resource="serial", by="bob"),
            stream.event("resumed", "", resource="model:never", by="bob"),
        ]
        store.record(events[:2])
        store.record(events[2:])
        store.record(events)
        found = store.settings(at_ms=NOW)
        assert [(item.kind, item.resource, item.value, item.by) for item in found] == [
            ("hold", "queue:q", None, "ann"),
            ("limit", "model:m", 3, "bob"),
        ]
        assert (found[0].reason, found[0].until_ms) == ("repair", NOW + DAY)
        assert [item.kind for item in store.settings(at_ms=NOW + DAY)] == ["limit"], "it has ended"
        log = store.audit(event="limit_set", limit=1)[0]
        assert (log["who"], log["before"], log["after"]) == ("bob", "2", "3")
        paused = store.audit(event="paused", resource="queue:q")[0]
        assert (paused["who"], paused["why"], paused["after"]) == ("ann", "repair", "held")
        store.record([stream.event("limit_reset", "", resource="model:m", by="ann", before="3")])
        assert [item.kind for item in store.settings(at_ms=NOW)] == ["hold"]

    def test_what_nobody_was_told_of_is_taken_back(self, store: Store) -> None:
        store.insert([job("a", "m", "n"), job("b"), job("c")])
        store.record(Stream().run("b")[:1])
        assert store.withdraw(["a", "b", "z"]) == 1
        assert store.known(["a", "b", "c"]) == {"b", "c"}
        assert store.jobs(model="n") == []

    def test_heartbeats_and_progress_reach_running_jobs_only(self, store: Store) -> None:
        store.insert([job("a"), job("b"), job("c")])
        stream = Stream()
        store.record([*stream.run("a")[:3], *stream.run("b", worker="w2")[:3], *stream.run("c")])
        store.heartbeats({"w1": NOW + 500, "w2": 1, "unknown": NOW})
        store.progress({"a": {"percent": 50}, "c": {"percent": 1}}, at_ms=NOW + 900)
        rows = {name: store.job(name) or {} for name in "abc"}
        assert rows["a"]["last_heartbeat"] == NOW + 900
        assert rows["a"]["progress"] == {"percent": 50}
        assert rows["b"]["last_heartbeat"] > 1, "an older beat does not count"
        assert rows["c"]["progress"] is None

    def test_old_rows_go_and_totals_stay(self, store: Store) -> None:
        stream = Stream()
        store.insert([job(f"j{number}", "m", "n") for number in range(7)])
        store.record([event for number in range(5) for event in stream.run(f"j{number}")])
        totals = store.totals()
        assert store.prune(at_ms=NOW + DAY).events == 0
        pruned = store.prune(batch=2, at_ms=NOW + 8 * DAY)
        assert (pruned.events, pruned.jobs) == (20, 0)
        pruned = store.prune(batch=2, at_ms=NOW + 31 * DAY)
        assert (pruned.events, pruned.jobs) == (1, 5), "the event is the note of the first time"
        assert store.totals() == totals
        assert {item.job.job_id for item in store.unfinished()} == {"j5", "j6"}
        assert [row["job_id"] for row in store.jobs(model="n")] == ["j6", "j5"]
        with pytest.raises(InvalidValue, match="batch"):
            store.prune(batch=0)

    @pytest.mark.slow
    def test_processes_that_upgrade_at_once_all_succeed(self, url: str) -> None:
        import time

        with get_context("spawn").Pool(3) as pool:
            start = time.time() + 3
            done = pool.starmap(upgrade_at_once, [(f"{url}", start)] * 3)
        assert done == [True, True, True]

    # -- forks ---------------------------------------------------------------------------------------

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_children_and_parent_write_after_a_fork(self, store: Store) -> None:
        stop = threading.Event()
        written: list[str] = []

        def write() -> None:
            while not stop.is_set():
                name = f"parent-{len(written)}"
                written.append(name)
                store.insert([job(name)])

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            eventually(lambda: len(written) > 5)
            children = [fork(partial(accept, store, f"child-{n}")) for n in range(4)]
            assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [
                0
            ] * 4
            stop.set()
            writer.result()
        names = {*written, *(f"child-{n}-{i}" for n in range(4) for i in range(20))}
        assert {item.job.job_id for item in store.unfinished(limit=100_000)} == names

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_fork_waits_for_a_transaction_of_another_thread(self, store: Store) -> None:
        entered, committed = threading.Event(), threading.Event()

        def write() -> None:
            with store.writing() as connection:
                store.insert_in(connection, [job("parent")])
                entered.set()
                eventually(lambda: forks._gate._forking)
            committed.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            assert entered.wait(10)

            def child() -> None:
                assert store.insert([job("child"), job("parent")]) == {"child"}

            pid = fork(child)
            writer.result()
        assert committed.is_set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.known(["parent", "child"]) == {"parent", "child"}

    # -- query plans ---------------------------------------------------------------------------------

    @pytest.mark.slow
    def test_no_listing_reads_more_than_it_shows(self, store: Store) -> None:
        fill(store, 20_000)
        for name, action in listings(store, 20_000).items():
            for plan in plans(store, action):
                assert reads_whole_table(plan) is None, f"{name}: {plan}"
                if name in ("pending", "queue", "unfinished page", "audit page"):
                    assert "Sort  (" not in plan, f"{name}: {plan}"
                if name == "processing" and store.dialect == "sqlite":
                    assert "jobs_retrying (finished_at=?" in plan


def key(event: Event) -> tuple[int, str]:
    return event.epoch, event.event_id


def reads_whole_table(plan: str) -> str | None:
    """Return the line of a plan that goes through all jobs or events, or None."""
    for line in plan.splitlines():
        whole = re.search(r"(SCAN|Seq Scan on) coordinator_(jobs|events)", line)
        if whole and "USING" not in line:
            return line
    return None


def accept(store: Store, name: str) -> None:
    for number in range(20):
        assert store.insert([job(f"{name}-{number}")])


def fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a child; it exits with 0 when nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def listings(store: Store, number: int) -> dict[str, Callable[[], object]]:
    """Return every verb that reads or removes rows, by what it lists, for a store filled with a number of jobs."""
    middle = number * 9 // 20
    place = (NOW * 1000 + middle, f"j{middle:05}")
    return {
        "all": store.jobs,
        "page": lambda: store.jobs(cursor=place),
        "pending": lambda: store.jobs(status="PENDING"),
        "processing": lambda: store.jobs(status="PROCESSING", cursor=place, oldest_first=True),
        "failed": lambda: store.jobs(status="FAILED"),
        "queue": lambda: store.jobs(queue="q1"),
        "queue and state": lambda: store.jobs(status="PENDING", queue="q1", cursor=place),
        "org": lambda: store.jobs(org="o1"),
        "model": lambda: store.jobs(model="m1"),
        "unfinished": store.unfinished,
        "unfinished page": lambda: store.unfinished(place),
        "failures": store.failures,
        "history": lambda: store.history("j00001"),
        "audit": store.audit,
        "audit page": lambda: store.audit(cursor=((NOW + 9) << 20, "x")),
        "audit of a type": lambda: store.audit(event="started"),
        "audit of a job": lambda: store.audit(job_id="j00001"),
        "audit of a time": lambda: store.audit(since_ms=NOW + 100, until_ms=NOW + 200),
        "export": lambda: list(store.export(since_ms=NOW, until_ms=NOW + 2)),
        "completed in an hour": partial(store.completed_since, NOW + 50_000),
        "known": lambda: list(store.known([f"j{number:05}" for number in range(100)])),
        "heartbeat": partial(store.heartbeats, {"w1": NOW}),
        "prune": partial(store.prune, at_ms=NOW),
    }


def fill(store: Store, number: int) -> None:
    """Store jobs of all kinds, most of them finished, as after a long time."""
    states = ["completed"] * 12 + [
        "failed",
        "waiting",
        "waiting",
        "waiting",
        "running",
        "canceled",
        "delayed",
    ]
    jobs = [
        job(
            f"j{n:05}",
            f"m{n % 40}",
            *(["x"] if n % 100 == 0 else []),
            queue=f"q{n % 4}",
            org=f"o{n % 30}",
        )
        for n in range(number)
    ]
    for start in range(0, number, 5000):
        store.insert(jobs[start : start + 5000])
    stream = Stream()
    events = []
    for n, item in enumerate(jobs):
        state = states[n % len(states)]
        data = {
            "state": state,
            "token": n,
            "worker": f"w{n % 8}",
            "sequence": NOW * 1000 + n,
            "due_ms": NOW,
        }
        events.append(stream.event("started" if n % 2 else state, item.job_id, **data))
    for start in range(0, number, 2000):
        store.record(events[start : start + 2000])
    if store.dialect == "postgresql":
        with store.stating() as connection:
            connection.exec_driver_sql("ANALYZE")


def make_twin(make: Callable[..., Store], jobs: list[Job], events: list[Event]) -> Any:
    """Return what a store has when nothing goes wrong."""
    twin = make(table_prefix="twin_")
    twin.insert(jobs)
    twin.record(events)
    return {name.removeprefix("twin_"): rows for name, rows in tables(twin).items()}


class TestSqlite(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/store.db"

    @pytest.fixture
    def make(self, url: str) -> Iterator[Callable[..., Store]]:
        made: list[Store] = []

        def make(**options: Any) -> Store:
            store = Store(url, **options)
            store.upgrade()
            made.append(store)
            return store

        yield make
        for store in made:
            store.close()

    @pytest.fixture
    def store(self, make: Callable[..., Store]) -> Store:
        return make()

    def test_a_writer_waits_for_another_and_gives_up_in_time(
        self, make: Callable[..., Store]
    ) -> None:
        store, other = make(busy_timeout=0.1), make()
        with other.writing(), pytest.raises(StoreUnavailable, match="locked"):
            store.insert([job("a")])
        assert store.insert([job("a")]) == {"a"}

    def test_readers_never_wait_for_a_writer(self, make: Callable[..., Store]) -> None:
        store, other = make(busy_timeout=0.1), make()
        store.insert([job("a")])
        with other.writing() as connection:
            other.insert_in(connection, [job("b")])
            assert store.known(["a", "b"]) == {"a"}

    def test_a_recorder_that_was_overtaken_counts_nothing_twice(
        self, make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, other = make(), make()
        store.insert([job("a"), job("b")])
        stream = Stream()
        first, second = stream.run("a"), stream.run("b")
        # Between the plan and the write another recorder writes a part of the same events.
        monkeypatch.setattr(store, "_rest", lambda: other.record([*first, *second[:2]]))
        assert store.record([*first[2:], *second]) == Recorded(new=2, known=4, moved=1)
        twin = make_twin(make, [job("a"), job("b")], [*first, *second])
        assert tables(store) == twin

    def test_a_row_that_came_after_the_plan_is_not_missed(
        self, make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, other = make(), make()
        events = Stream().run("a")
        events[0].data["row"] = row_of(job("a"))
        monkeypatch.setattr(store, "_rest", lambda: other.insert([job("a")]))
        assert store.record(events) == Recorded(new=4, known=0, moved=1)
        assert store.counts() == {"completed": 1}

    def test_a_heartbeat_between_plan_and_write_stays(
        self, make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, other = make(), make()
        store.insert([job("a")])
        stream = Stream()
        run = stream.run("a")
        store.record([run[0], run[2]])
        beat = NOW + 60_000
        monkeypatch.setattr(store, "_rest", lambda: other.heartbeats({"w1": beat}))
        # Late, so that the whole history with its older heartbeat is folded again.
        store.record([run[1]])
        row = store.job("a")
        assert row is not None
        assert row["last_heartbeat"] == beat

    def test_the_wal_does_not_grow_for_ever(
        self, make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "CHECKPOINT_EVENTS", 50)
        monkeypatch.setattr(recording, "RESTART_PAGES", 50)
        store = make()
        stream = Stream()
        wal = Path(f"{store.url.database}-wal")
        for number in range(40):
            jobs = [job(f"j{number}-{part}", message="x" * 500) for part in range(20)]
            store.insert(jobs)
            store.record([event for item in jobs for event in stream.run(item.job_id)])
        # Some 40 batches of 50 pages went through it.
        assert wal.stat().st_size < 150 * 4096

    def test_a_full_disk_is_said_and_accepts_again_when_there_is_room(self, store: Store) -> None:
        with store.stating() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

        def limit(connection: Any, _record: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages + 8}")

        store.close()
        sa.event.listen(store.engine, "connect", limit)
        big = [job(f"j{number}", message="x" * 4000) for number in range(50)]
        with pytest.raises(StoreUnavailable, match="full"):
            store.insert(big)
        assert store.known([item.job_id for item in big]) == set()
        sa.event.remove(store.engine, "connect", limit)
        store.close()
        assert len(store.insert(big)) == 50

    def test_what_is_wrong_with_the_file_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a database, but long enough to be looked at " * 100)
        with pytest.raises(StoreUnavailable, match="not a database"):
            Store(f"sqlite:///{tmp_path}/file").upgrade()
        with pytest.raises(StoreUnavailable, match="cannot be made"):
            Store(f"sqlite:///{tmp_path}/file/below/store.db").upgrade()
        with pytest.raises(StoreUnavailable, match="unable to open"):
            Store(f"sqlite:///{tmp_path}/nowhere/store.db").insert([job("a")])
        with pytest.raises(StoreUnavailable, match="coordinator db upgrade"):
            Store(f"sqlite:///{tmp_path}/empty.db").insert([job("a")])

    @pytest.mark.parametrize(
        "wrong",
        ["nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://h/d"],
    )
    def test_a_url_of_no_use_is_refused(self, wrong: str) -> None:
        with pytest.raises(InvalidSetting, match="database_url"):
            Store(wrong)

    def test_wrong_options_are_refused(self, url: str) -> None:
        with pytest.raises(InvalidSetting, match="regular expression"):
            Store(url, redact=["("])
        with pytest.raises(InvalidSetting, match="synchronous"):
            Store(url, synchronous="OFF")

    def test_a_password_is_never_shown(self) -> None:
        store = Store("postgresql://user:hunter2@127.0.0.1:1/d", busy_timeout=1)
        with pytest.raises(StoreUnavailable) as raised:
            store.insert([job("a")])
        assert "hunter2" not in str(raised.value)
        assert "127.0.0.1" in str(raised.value)

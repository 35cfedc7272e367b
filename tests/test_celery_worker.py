"""Workers of every pool, their limits, and the commands and monitors that Celery users know."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.beat import Service
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.schedules import schedule
from kombu.entity import Exchange

from coordinator.family import WORKER_MARK
from tests import celery_app
from tests.helpers import eventually, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


# -- pools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_every_pool_keeps_the_lock_and_the_order(alone: Installation, pool: str) -> None:
    with alone.worker(pool=pool, concurrency=1 if pool == "solo" else 3):
        with alone.held("m"):
            results = [alone.play(["spin", 0.01], ["give", n], model="m") for n in range(4)]
            alone.waits(results)
        retried = alone.play(["retry"], ["give", "again"], model="m")
        failing = alone.task("once").delay(["fail", "ValueError"])
        replaced = alone.play(["replace", alone.s(["give", "other"])])
        called = alone.play(["call", "play", [["give", 1]], {"kwargs": {"model": "m"}}], model="m")
        assert [alone.get(result) for result in results] == [0, 1, 2, 3]
        assert alone.get(retried) == "again"
        assert alone.get(replaced) == "other"
        with pytest.raises(ValueError, match="as told"):
            alone.get(failing)
        alone.becomes(alone.get(called), "completed")
        spans = sorted((alone.trace(r)[0]["at"], alone.trace(r)[-1]["at"]) for r in results)
        assert all(spans[n][1] <= spans[n + 1][0] for n in range(3))
        # What the pool can do at once, coordinated jobs of different models do at once.
        gates = [alone.gate() for _ in range(1 if pool == "solo" else 3)]
        together = [alone.play(["wait", gate], model=gate) for gate in gates]
        for result in together:
            alone.starts(result)
        alone.work_queue.cancel_job(together[0].id, "a test", "test")
        alone.ends(together[0], "REVOKED")
        alone.open(*gates)
        for result in together[1:]:
            alone.get(result)


# -- limits ------------------------------------------------------------------------------------------


def test_soft_and_hard_time_limits_end_a_job(shared: Installation) -> None:
    model = shared.model()
    soft = shared.task("limited").delay(["spin", 20])
    hard = shared.task("killed").delay(["spin", 20], model=model)
    after = shared.play(["give", 1], model=model)
    per_call = shared.task("play").apply_async((["spin", 20],), soft_time_limit=0.2)
    timeout = shared.task("play").apply_async((["spin", 20],), timeout=0.2)
    for result in (soft, per_call, timeout):
        with pytest.raises(SoftTimeLimitExceeded):
            shared.get(result)
        shared.becomes(result, "failed")
    with pytest.raises(TimeLimitExceeded):
        shared.get(hard)
    shared.becomes(hard, "failed")
    assert shared.get(after) == 1
    assert [shared.runs(result) for result in (soft, hard, per_call, timeout)] == [1, 1, 1, 1]


@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
@pytest.mark.parametrize(
    ("verb", "state", "runs"), [("claim", "failed", 0), ("finish", "completed", 1)]
)
def test_a_soft_limit_that_falls_into_claim_or_finish_loses_no_run(
    alone: Installation,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    state: str,
    runs: int,
    done: bool,
) -> None:
    ledger, task = alone.work_queue.ledger, alone.task("play")
    alone.work_queue.ensure_open()
    ledger.renew("nobody", ["work"], 1, register=True)
    monkeypatch.setenv(WORKER_MARK, "nobody")
    result = alone.play(["give", 7])
    headers = json.loads(alone.redis.rpop("work"))["headers"]
    real, interruptions = getattr(ledger, verb), [1]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        # The signal arrives when the script was run and its answer is not read yet, or before both.
        if interruptions:
            interruptions.pop()
            if done:
                real(*args, **kwargs)
            raise SoftTimeLimitExceeded
        return real(*args, **kwargs)

    monkeypatch.setattr(ledger, verb, interrupted)
    task.__trace__ = build_tracer("play", task, app=alone.app)
    request = {**headers, "delivery_info": {}, "is_eager": False}
    task.__trace__(result.id, [["give", 7]], {}, request)
    assert (alone.state(result), alone.runs(result)) == (state, runs)
    assert result.state == ("SUCCESS" if runs else "FAILURE")
    assert ledger.holders("queue:work") == set()


def test_the_timeout_of_a_queue_holds_for_tasks_without_a_limit(alone: Installation) -> None:
    alone.conf["coordinator_queues"] = {"work": {"timeout": 0.3}}
    with alone.worker():
        result = alone.play(["spin", 20])
        own = alone.task("play").apply_async((["spin", 0.8], ["limits"]), soft_time_limit=30)
        stranger = alone.stranger.send_task("limited", (["spin", 20],))
        foreign = alone.foreign.tasks["play"].delay(["spin", 20])
        for late in (result, stranger, foreign):
            with pytest.raises(SoftTimeLimitExceeded):
                alone.get(late)
        assert alone.get(own) == [None, 30]
        row = alone.work_queue.store.job(result.id)
        assert row is not None
        assert row["timeout"] == 0.3


def test_a_rate_limit_keeps_jobs_longer_than_a_lease(alone: Installation) -> None:
    # Two messages in the worker's hand, one of them for longer than the time it has to claim it.
    with alone.worker(coordinator_lease_seconds=1) as worker:
        alone.app.control.rate_limit("slow", "0.4/s", reply=True, limit=1, timeout=10)
        results = [alone.task("slow").delay(["give", n]) for n in range(3)]
        assert [alone.get(result) for result in results] == [0, 1, 2]
        assert [alone.runs(result) for result in results] == [1, 1, 1]
        starts = [alone.trace(result)[0]["at"] for result in results]
        assert max(starts) - min(starts) > 4

        def told() -> list[str]:
            events = [alone.work_queue.store.history(result.id) for result in results]
            verbs = [event["event_type"] for history in events for event in history]
            assert verbs.count("completed") == 3
            return verbs

        assert "undelivered" not in eventually(told, 30)
        assert not worker.said("is stale")


def test_children_that_end_after_some_tasks_lose_none(alone: Installation) -> None:
    with alone.worker("--max-tasks-per-child", "2"):
        results = [alone.play(["give", n], model=f"m{n % 2}") for n in range(8)]
        assert [alone.get(result) for result in results] == list(range(8))
        assert [alone.runs(result) for result in results] == [1] * 8
        assert len({alone.trace(result)[0]["pid"] for result in results}) >= 4


def test_a_job_dispatched_to_a_busy_worker_can_expire_and_be_revoked(alone: Installation) -> None:
    alone.work_queue.ensure_open()
    # Somebody promised to take them: three jobs are on the broker list, and nobody has them yet.
    alone.work_queue.ledger.renew("nobody", ["work"], 3, register=True)
    expiring = alone.task("play").apply_async((), {"model": "a"}, expires=0.2)
    revoked, kept = alone.play(model="b"), alone.play(["give", 1], model="c")
    assert {alone.state(result) for result in (expiring, revoked, kept)} == {"dispatched"}
    revoked.revoke()
    assert alone.redis.llen("work") == 2
    eventually(lambda: _past(alone, expiring))
    with alone.worker():
        assert alone.get(kept) == 1
        for result in (expiring, revoked):
            alone.ends(result, "REVOKED")
            alone.becomes(result, "canceled")
            assert alone.runs(result) == 0
        assert alone.get(alone.play(["give", 2], model="a")) == 2


def _past(own: Installation, result: Any) -> bool:
    now = own.redis.time()
    job = own.work_queue.ledger.job(result.id)
    return job is not None and float(job["expires"]) < now[0] * 1000 + now[1] / 1000


# -- commands and monitors ---------------------------------------------------------------------------


def test_inspect_shows_what_runs_and_what_is_registered(shared: Installation) -> None:
    gate = shared.gate()
    result = shared.play(["block", gate], model=gate)
    waiting = shared.play(model=gate)
    shared.starts(result)
    # Its number depends on the tests before.
    (node,) = (worker["node"] for worker in shared.work_queue.ledger.workers())
    inspect = shared.app.control.inspect([node], timeout=10, limit=1)
    active = inspect.active()[node]
    assert [job["id"] for job in active if job["id"] == result.id] == [result.id]
    assert waiting.id not in str(inspect.reserved())
    assert "play [" in str(inspect.registered()) or "play" in inspect.registered()[node]
    assert inspect.stats()[node]["pool"]["max-concurrency"] == 4
    assert shared.app.control.ping([node], timeout=10, limit=1) == [{node: {"ok": "pong"}}]
    shared.open(gate)
    shared.get(result)


def test_monitors_see_the_events_they_know(shared: Installation) -> None:
    seen: dict[str, list[str]] = {}

    def keep(event: dict[str, Any]) -> None:
        seen.setdefault(str(event.get("uuid")), []).append(event["type"])

    with shared.app.connection_for_read() as connection:
        receiver = shared.app.events.Receiver(connection, handlers={"*": keep})
        events = receiver.consume(timeout=30, wakeup=False)
        # A heartbeat: from now on nothing is missed.
        next(events)
        result = shared.play(["retry"], ["give", 1])
        failing = shared.task("once").delay(["fail", "ValueError"])
        for _ in events:
            ends = [seen.get(one.id, [""])[-1] for one in (result, failing)]
            if ends == ["task-succeeded", "task-failed"]:
                break
        events.close()
    # A retry that is due at once may be received before the main process tells of it.
    one = ["task-received", "task-started"]
    assert sorted(event for event in seen[result.id] if event != "task-sent") == sorted(
        [*one, "task-retried", *one, "task-succeeded"]
    )
    assert seen[failing.id][-3:] == [*one, "task-failed"]


def _celery(own: Installation, *arguments: str) -> str:
    env = {
        celery_app.BROKER: own.broker,
        celery_app.FOLDER: str(own.folder),
        celery_app.SETTINGS: "{}",
    }
    log = own.folder / f"command-{own.gate()}.log"
    command = ["python", "-m", "celery", "-A", "tests.celery_app", *arguments]
    with running(*command, env=env, log=log) as process:
        assert process.wait(60) == 0, log.read_text()
    return log.read_text()


def test_celery_call_and_purge(shared: Installation, alone: Installation) -> None:
    model = shared.model()
    with shared.held(model):
        said = _celery(
            shared, "call", "play", "-a", '[["give", 3]]', "-k", f'{{"model": "{model}"}}'
        )
        result = shared.app.AsyncResult(said.split()[-1])
        assert shared.state(result) == "waiting"
    assert shared.get(result) == 3

    # Purge sees what is on the broker list, which is what was dispatched: it comes back by itself.
    alone.work_queue.ensure_open()
    alone.work_queue.ledger.configure({"claim_ms": "300"})
    alone.work_queue.ledger.renew("nobody", ["work"], 1, register=True)
    results = [alone.play(["give", n]) for n in range(3)]
    assert sorted(alone.state(result) for result in results) == ["dispatched", "waiting", "waiting"]
    assert alone.app.control.purge() == 1
    assert alone.redis.llen("work") == 0

    def back() -> bool:
        alone.work_queue.ledger.tick()
        return bool(alone.redis.llen("work") == 1)

    eventually(back)
    assert alone.state(results[0]) == "dispatched"


def test_beat_sends_jobs(shared: Installation) -> None:
    model = shared.model()
    app = celery_app.create(
        shared.broker,
        shared.folder,
        beat_schedule={
            "often": {
                "task": "play",
                "args": (["give", 1],),
                "kwargs": {"model": model},
                "schedule": schedule(timedelta(seconds=60)),
                "options": {"expires": 60},
            }
        },
    )
    beat = Service(app, schedule_filename=str(shared.folder / "beat")).get_scheduler()
    entry = beat.schedule["often"]
    with shared.held(model):
        result = beat.apply_async(entry, producer=beat.producer)
        assert shared.state(result) == "waiting"
    assert shared.get(shared.app.AsyncResult(result.id)) == 1
    beat.close()


def test_exchanges_of_the_app_lead_to_jobs_and_broadcasts_to_every_worker(
    alone: Installation,
) -> None:
    alone.conf["test_exchanges"] = {
        "topical": ["topics", "topic", "jobs.#"],
        "all": ["all", "fanout"],
    }
    with alone.worker(queues=["topical", "all"]), alone.worker(queues=["all"]):
        result = alone.task("play").apply_async(
            (["give", 1],),
            {"model": "m"},
            exchange="topics",
            routing_key="jobs.small",
            declare=[alone.app.amqp.queues["topical"]],
        )
        everybody = alone.task("play").apply_async(
            (["give", 1],), queue="all", declare=[Exchange("all", "fanout")]
        )
        assert alone.get(result) == 1
        row = alone.work_queue.store.job(result.id)
        assert row is not None
        assert row["queue"] == "topical"
        eventually(lambda: alone.runs(everybody) == 2, 30)
        assert alone.state(everybody) == "unknown"

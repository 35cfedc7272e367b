"""How a run ends before its time: silence, and the shutdowns of its worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from coordinator.family import member
from coordinator.running.request import Request
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation, Worker

pytest_plugins = ["tests.workers"]


def _told(own: Installation, result: Any, verb: str) -> list[dict[str, Any]]:
    history = own.work_queue.store.history(result.id)
    return [event for event in history if event["event_type"] == verb]


def _gone(worker: Worker) -> None:
    eventually(lambda: member(worker.pid) is None, 30)


# -- silence -----------------------------------------------------------------------------------------


def test_a_silent_job_is_ended_and_runs_again_and_one_that_lives_goes_on(
    alone: Installation,
) -> None:
    with alone.worker(concurrency=3):
        play = alone.task("play")
        silent = play.apply_async((["hang", 1], ["give", 7]), {"model": "m"}, heartbeat_timeout=1.5)
        behind = alone.play(["give", 8], model="m")
        lively = play.apply_async((["live", 4.0], ["give", 9]), heartbeat_timeout=1.5)
        checked = play.apply_async((["look", 4.0], ["give", 10]), heartbeat_timeout=1.5)
        assert [alone.get(one) for one in (silent, behind, lively, checked)] == [7, 8, 9, 10]
        assert [alone.runs(one) for one in (silent, behind, lively, checked)] == [2, 1, 1, 1]
        # It keeps its place: the one behind it comes after its second run.
        assert alone.trace(behind)[0]["at"] > alone.trace(silent)[-1]["at"]

        def told() -> None:
            (lost,) = _told(alone, silent, "expired")
            assert "no sign of life" in lost["data"]["reason"]
            assert lost["data"]["losses"] == 1

        eventually(told, 10)


def test_silence_counts_against_the_job_and_a_queue_may_say_how_long_it_may_last(
    alone: Installation,
) -> None:
    alone.conf["coordinator_queues"] = {"work": {"heartbeat_timeout": 1}}
    with alone.worker():
        stubborn = alone.task("play").apply_async((["hang", 9],), max_retries=1)
        own = alone.task("play").apply_async((["spin", 2.5], ["give", 1]), heartbeat_timeout=60)
        alone.becomes(stubborn, "unprocessable")
        assert alone.runs(stubborn) == 2
        assert alone.get(own) == 1
        row = alone.work_queue.store.job(stubborn.id)
        assert row is not None
        assert row["heartbeat_timeout"] == 1
        assert "no sign of life" in row["error"]


def test_a_job_that_ignores_the_first_signal_is_killed(alone: Installation) -> None:
    with alone.worker(concurrency=1):
        deaf = alone.task("play").apply_async((["deaf", 1], ["give", 5]), heartbeat_timeout=1)
        assert alone.get(deaf) == 5
        first, second = alone.trace(deaf, "start")
        assert first["pid"] != second["pid"]


# -- shutdowns ---------------------------------------------------------------------------------------


def test_a_warm_shutdown_lets_its_jobs_end_and_takes_nothing_new(alone: Installation) -> None:
    gate = alone.gate()
    with alone.worker(concurrency=2) as first:
        running = alone.play(["wait", gate], ["give", 1])
        alone.starts(running)
        os.kill(first.pid, signal.SIGTERM)
        eventually(lambda: _slots(alone) == 0, 10)
        # It has a free slot, of which the ledger knows that it is none.
        later = alone.play(["give", 2])
        assert alone.state(later) == "waiting"
        alone.open(gate)
        assert alone.get(running) == 1
        _gone(first)
    assert alone.state(later) == "waiting"
    with alone.worker():
        assert alone.get(later) == 2
    assert [alone.runs(one) for one in (running, later)] == [1, 1]


def _slots(own: Installation) -> int:
    raw = own.redis.hgetall("coordinator:pools")
    return sum(int(slots) for pool, slots in raw.items() if "work" in pool.split())


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_cannot_end_by_the_deadline_goes_back_uncounted(
    alone: Installation, pool: str
) -> None:
    gates = [alone.gate(), alone.gate()]
    conf: dict[str, Any] = {"coordinator_shutdown_seconds": 1.5, "coordinator_lease_seconds": 2}
    with alone.worker(pool=pool, concurrency=3, **conf) as first:
        # One that looks whether it has to stop, one that never does, one that ends in time.
        asking, deaf = alone.play(["wait", gates[0]]), alone.play(["block", gates[1]], ["give", 2])
        short = alone.play(["spin", 0.1], ["give", 3])
        for one in (asking, deaf, short):
            alone.starts(one)
        began = time.monotonic()
        os.kill(first.pid, signal.SIGTERM)
        if pool == "prefork":
            alone.becomes(deaf, "waiting")
        _gone(first)
        assert time.monotonic() - began < 12

    # At once where jobs are processes; else with their worker, after its lease, of which a tick tells.
    def back() -> None:
        alone.work_queue.ledger.tick()
        assert [alone.state(one) for one in (asking, deaf)] == ["waiting"] * 2

    eventually(back, 0.1 if pool == "prefork" else 10)
    assert alone.get(short) == 3
    alone.open(*gates)
    with alone.worker(concurrency=3):
        assert alone.get(asking) is None
        assert alone.get(deaf) == 2
        _uncounted(alone, asking, deaf, short)
    assert [alone.runs(one) for one in (asking, deaf, short)] == [2, 2, 1]


def _uncounted(own: Installation, *results: Any) -> None:
    def recorded() -> None:
        rows = [own.work_queue.store.job(one.id) for one in results]
        assert [(row["state"], row["losses"]) for row in rows if row] == [("completed", 0)] * len(
            results
        )

    eventually(recorded, 20)


def test_an_old_delivery_that_is_given_back_stops_no_later_run(alone: Installation) -> None:
    alone.work_queue.ensure_open()
    ledger = alone.work_queue.ledger
    ledger.renew("nobody", ["work"], 2, register=True)
    result = alone.play()
    with alone.app.connection_for_read() as connection:
        message = connection.channel().message_to_python(json.loads(alone.redis.rpop("work")))
    item = Request(message, app=alone.app, task=alone.task("play"))
    assert item.token is not None
    ledger.undeliver(result.id, item.token, "its worker lost the connection")
    job = ledger.job(result.id)
    assert job is not None
    assert ledger.claim(result.id, int(job["token"]), "n", "nobody").granted
    assert item.give_back(ledger) is False
    assert alone.state(result) == "running"


def test_a_cold_shutdown_gives_back_at_once(alone: Installation) -> None:
    gate = alone.gate()
    with alone.worker(concurrency=2) as first:
        running = [alone.play(["block", gate], ["give", n]) for n in range(2)]
        waiting = alone.play(["give", 3])
        for one in running:
            alone.starts(one)
        began = time.monotonic()
        os.kill(first.pid, signal.SIGQUIT)
        for one in running:
            alone.becomes(one, "waiting")
        assert time.monotonic() - began < 5, "the lease is 30 s"
        _gone(first)
    assert not alone.work_queue.ledger.workers()
    alone.open(gate)
    with alone.worker():
        assert [alone.get(one) for one in (*running, waiting)] == [0, 1, 3]
        _uncounted(alone, *running, waiting)
    assert [alone.runs(one) for one in (*running, waiting)] == [2, 2, 1]


def test_a_cold_shutdown_ends_although_a_process_left_half_a_message(alone: Installation) -> None:
    with alone.worker(concurrency=1) as worker:
        result = alone.play(["stammer", alone.gate()])
        alone.starts(result)
        os.kill(worker.pid, signal.SIGQUIT)
        eventually(lambda: alone.trace(result, "stammered"), 30)
        _gone(worker)
    assert not alone.work_queue.ledger.workers()
    assert alone.state(result) == "waiting"


def test_celerys_soft_shutdown_lets_end_what_ends_in_time(alone: Installation) -> None:
    gate = alone.gate()
    with alone.worker(concurrency=2, worker_soft_shutdown_timeout=2.0) as first:
        long = alone.play(["block", gate], ["give", 1])
        short = alone.play(["spin", 1.0], ["give", 2])
        alone.starts(long)
        alone.starts(short)
        os.kill(first.pid, signal.SIGQUIT)
        alone.becomes(long, "waiting")
        _gone(first)
    assert alone.get(short) == 2
    alone.open(gate)
    with alone.worker():
        assert alone.get(long) == 1
    assert [alone.runs(one) for one in (long, short)] == [2, 1]


# -- slots -------------------------------------------------------------------------------------------


def test_the_slots_follow_the_pool_as_it_grows_and_shrinks(alone: Installation) -> None:
    gate = alone.gate()
    with alone.worker(concurrency=1) as worker:
        control, to = (
            alone.app.control,
            {"destination": [worker.node], "reply": True, "timeout": 10},
        )
        results = [alone.play(["wait", gate]) for _ in range(4)]
        alone.starts(results[0])
        assert [alone.state(one) for one in results[1:]] == ["waiting"] * 3
        control.pool_grow(2, **to)
        alone.starts(results[2])
        eventually(lambda: _slots(alone) == 3)
        assert alone.state(results[3]) == "waiting"
        alone.open(gate)
        for one in results:
            alone.get(one)
        control.pool_shrink(1, **to)
        eventually(lambda: _slots(alone) == 2)
        gates = [alone.gate() for _ in range(3)]
        more = [alone.play(["wait", gate]) for gate in gates]
        for one in more[:2]:
            alone.starts(one)
        assert alone.state(more[2]) == "waiting"
        alone.open(*gates)
        for one in more:
            alone.get(one)
        assert [alone.runs(one) for one in (*results, *more)] == [1] * 7


def test_a_pool_that_shrinks_spares_whom_it_has_just_sent_a_job(alone: Installation) -> None:
    with alone.worker(concurrency=1) as worker:
        (child,) = pool_of(psutil.Process(worker.pid))
        # It cannot say that it has begun.
        child.suspend()
        result = alone.play(["give", 5])
        eventually(lambda: worker.said("received"), 30)
        to = {"destination": [worker.node], "reply": True, "timeout": 10}
        ((said,),) = (answer.values() for answer in alone.app.control.pool_shrink(1, **to))
        assert "All processes busy" in str(said)
        child.resume()
        assert alone.get(result) == 5
        assert child.is_running()
    assert alone.runs(result) == 1


def test_a_pool_that_shrinks_twice_in_a_row_ends_two(alone: Installation) -> None:
    with alone.worker(concurrency=3) as worker:
        children = pool_of(psutil.Process(worker.pid))
        to = {"destination": [worker.node], "reply": True, "timeout": 10}
        # The first that is ended is still there when the second is chosen.
        for child in children:
            child.suspend()
        for _ in range(2):
            assert "will shrink" in str(alone.app.control.pool_shrink(1, **to))
        for child in children:
            child.resume()
        eventually(lambda: [one.is_running() for one in children].count(True) == 1, 30)
        assert alone.get(alone.play(["give", 5])) == 5


def test_the_slots_are_those_an_autoscaled_pool_may_have(alone: Installation) -> None:
    gate = alone.gate()
    with alone.worker("--autoscale", "3,1", concurrency=1) as worker:
        results = [alone.play(["wait", gate]) for _ in range(4)]
        for one in results[:3]:
            alone.starts(one)
        assert alone.state(results[3]) == "waiting"
        assert len(psutil.Process(worker.pid).children()) >= 3
        alone.open(gate)
        for one in results:
            alone.get(one)
        assert [alone.runs(one) for one in results] == [1] * 4


# -- workers that take nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
def test_a_worker_that_answers_and_takes_nothing_is_found(
    alone: Installation, restarts: bool
) -> None:
    with alone.worker(coordinator_restart_idle_workers=restarts) as worker:
        assert alone.get(alone.play(["give", 1])) == 1
        control = alone.app.control
        control.broadcast("deafen", destination=[worker.node], reply=True, timeout=10)
        left = alone.play(["give", 2])
        began = time.monotonic()
        assert control.ping(timeout=10, limit=1) == [{worker.node: {"ok": "pong"}}]
        if restarts:
            _gone(worker)
        else:
            (idle,) = eventually(alone.work_queue.ledger.idle_workers, 25)
            assert idle["node"] == worker.node
            assert idle["idle_seconds"] >= 10
        assert time.monotonic() - began < 30
        assert worker.said("takes nothing")
    with alone.worker():
        alone.work_queue.ledger.leave(next(iter(alone.work_queue.ledger.known_workers())))
        assert alone.get(left) == 2


def test_children_that_end_at_once_are_all_seen_and_the_next_lost_connection_is_survived(
    alone: Installation,
) -> None:
    with alone.worker(concurrency=6) as worker:
        main = psutil.Process(worker.pid)
        for round_ in range(3):
            before = {child.pid for child in pool_of(main)}
            assert len(before) == 6
            # What the main process finds when it goes on: all of them gone.
            main.suspend()
            for child in pool_of(main):
                child.kill()
            main.resume()
            eventually(partial(replaced, main, before), 60)
            for client in alone.redis.client_list():
                if client["db"] == alone.broker.rsplit("/", 1)[1]:
                    alone.redis.execute_command(
                        "CLIENT", "KILL", "ID", client["id"], "SKIPME", "yes"
                    )
            # A job that is fetched in this very moment is dispatched again when its dispatch lease ends.
            eventually(partial(connected, worker, round_ + 2), 30)
            assert alone.get(alone.play(["give", 7])) == 7
        assert main.is_running()


def replaced(main: psutil.Process, before: set[int]) -> bool:
    return len({child.pid for child in pool_of(main)} - before) == len(before)


def connected(worker: Worker, times: int) -> bool:
    return worker.log.read_text().count("Connected to") >= times


def pool_of(main: psutil.Process) -> list[psutil.Process]:
    """Return the children of a worker that run jobs."""
    found = []
    for child in main.children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if {"coordinator.running.guard", "coordinator.recovery.errands"}.isdisjoint(
                child.cmdline()
            ):
                found.append(child)
    return found

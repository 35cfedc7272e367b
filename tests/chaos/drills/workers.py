"""Drills on workers: killed, frozen, restarted."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
from tests.chaos.pauses import pause
from tests.chaos.traces import Run
from tests.helpers import eventually


def hit(cluster: Cluster, name: str, choice: random.Random, left: float = 0.0) -> psutil.Process:
    """Return a pool process of a worker that runs a job at this moment, and for some seconds more."""

    def busy() -> list[psutil.Process]:
        return cluster.busy(name, left)

    return choice.choice(eventually(busy, 30))


@drill(runs_killed=True)
def kill_workers(cluster: Cluster, choice: random.Random) -> str:
    """SIGKILL of main processes; their pool processes are gone within a second."""
    cluster.produce(400, choice.randrange(1 << 30), "--children", "0.2", "--pause", "0.08")
    slowest = 0.0
    for round_ in range(4):
        cluster.await_completed(40 * (round_ + 1) - 30)
        name = choice.choice(cluster.workers)
        hit(cluster, name, choice)
        family = psutil.Process(cluster.processes[name].pid).children(recursive=True)
        with cluster.blow("kill"):
            cluster.kill(name)
            began = time.monotonic()
            _gone(family)
        slowest = max(slowest, time.monotonic() - began)
        cluster.start_worker(name)
        cluster.await_workers((name,))
    assert slowest < 1.0, f"what a killed worker left was gone after {slowest:.2f} s only"
    return f"gone in {slowest:.2f} s"


def _gone(family: list[psutil.Process]) -> None:
    eventually(lambda: not any(map(_lives, family)), 5, 0.01)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@drill(runs_killed=True)
def kill_children(cluster: Cluster, choice: random.Random) -> None:
    """SIGKILL of pool processes that run a job."""
    cluster.produce(300, choice.randrange(1 << 30), "--children", "0.2")
    for round_ in range(12):
        cluster.await_completed(15 * round_ + 5)
        with cluster.blow("kill"):
            hit(cluster, choice.choice(cluster.workers), choice).kill()


def _long(cluster: Cluster, choice: random.Random) -> None:
    """Add jobs that are longer than the lease, so that a freeze hits them."""
    long = ("--shortest", "4", "--longest", "6", "--children", "0.5")
    cluster.produce(10, choice.randrange(1 << 30), *long)


@drill(runs_killed=True)
def freeze_main(cluster: Cluster, choice: random.Random) -> None:
    """SIGSTOP of a main process past its lease, then SIGCONT."""
    cluster.produce(200, choice.randrange(1 << 30), "--children", "0.2")
    for round_ in range(3):
        cluster.await_completed(40 * round_ + 10)
        _long(cluster, choice)
        name = choice.choice(cluster.workers)
        hit(cluster, name, choice, 1.5 * cluster.lease)
        _freeze(cluster, name, [cluster.processes[name].pid])


@drill(runs_killed=True)
def freeze_group(cluster: Cluster, choice: random.Random) -> None:
    """SIGSTOP of all processes of a worker but its guard, past the lease, then SIGCONT."""
    cluster.produce(200, choice.randrange(1 << 30), "--children", "0.2")
    for round_ in range(3):
        cluster.await_completed(40 * round_ + 10)
        _long(cluster, choice)
        name = choice.choice(cluster.workers)
        hit(cluster, name, choice, 1.5 * cluster.lease)
        main = cluster.processes[name].pid
        family = [child.pid for top in cluster.children(name) for child in (top, *_below(top))]
        _freeze(cluster, name, [main, *family])


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _freeze(cluster: Cluster, name: str, pids: list[int]) -> None:
    before = {worker["id"] for worker in cluster.ledger.workers()}
    main = cluster.processes[name].pid
    mine = next(w["id"] for w in cluster.ledger.workers() if int(w.get("pid", 0)) == main)
    with cluster.blow("kill"):
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        # Not a wait for a time: the ledger itself has to see the lease end.
        eventually(lambda: mine not in {w["id"] for w in cluster.ledger.workers()}, 20)
        for pid in pids:
            _signal(pid, signal.SIGCONT)
    assert mine in before
    eventually(lambda: mine in {w["id"] for w in cluster.ledger.workers()}, 20)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@drill()
def freeze_child(cluster: Cluster, choice: random.Random) -> None:
    """SIGSTOP of a pool process for longer than the lease: its job goes on afterwards, once."""
    cluster.produce(200, choice.randrange(1 << 30), "--pause", "0.08")
    for round_ in range(3):
        cluster.await_completed(30 * round_ + 10)
        child = hit(cluster, choice.choice(cluster.workers), choice)
        child.suspend()
        pause(1.5 * cluster.lease)
        child.resume()


@drill()
def rolling_restart(cluster: Cluster, choice: random.Random) -> None:
    """SIGTERM of one worker after the other under load: nothing lost, nothing twice, nothing killed."""
    cluster.produce(400, choice.randrange(1 << 30))
    for round_ in range(2):
        for index, name in enumerate((*cluster.workers, "maintenance")):
            cluster.await_completed(60 * round_ + 20 * index + 20)
            process = cluster.processes[name]
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            cluster.start_worker(name)
            cluster.await_workers((name,))
    cluster.settle()
    killed = [run for run in cluster.runs() if run.ended is None]
    assert not killed, f"runs that were not let finish: {killed}"


@drill(runs_killed=True, lease=5.0)
def take_over(cluster: Cluster, choice: random.Random) -> str:
    """A killed worker's model runs its next job within 7 s (lease 5 s), a killed child's within 2 s."""
    return _take_over(cluster, choice, within=7.0)


@drill(runs_killed=True, lease=5.0, reaper=False)
def take_over_without_reaper(cluster: Cluster, choice: random.Random) -> str:
    """The same by the lease alone."""
    return _take_over(cluster, choice, within=7.0)


@drill(runs_killed=True, lease=30.0, reaper=False)
def take_over_by_default(cluster: Cluster, choice: random.Random) -> str:
    """The same with the lease of the default settings: within 35 s."""
    return _take_over(cluster, choice, within=35.0)


def _take_over(cluster: Cluster, choice: random.Random, within: float) -> str:
    cluster.produce(
        2, choice.randrange(1 << 30), "--models", "3", "--shortest", "4", "--longest", "4"
    )
    cluster.produce(60, choice.randrange(1 << 30), "--models", "3")
    eventually(lambda: len(cluster.accepted()) >= 62, 60)
    waits = []
    for kind in ("child", "worker"):
        name, run = eventually(lambda: _victims(cluster), 60)[0]
        with cluster.blow("kill"):
            killed = time.monotonic()
            if kind == "child":
                os.kill(min(run.pids), signal.SIGKILL)
            else:
                cluster.kill(name)
        models, dead = set(run.models), (run.job, run.token)

        def again(models: set[str] = models, killed: float = killed, dead: object = dead) -> float:
            later = [
                r.start
                for r in cluster.runs()
                if models & set(r.models) and r.start > killed and (r.job, r.token) != dead
            ]
            return min(later, default=0.0)

        waits.append(eventually(again, within + 10, 0.05) - killed)
    cluster.revive()
    cluster.await_workers()
    assert waits[0] < 2.0, f"after the death of a child its model waited for {waits[0]:.2f} s"
    assert waits[1] < within, f"after the death of a worker its model waited for {waits[1]:.2f} s"
    return f"child {waits[0]:.2f} s, worker {waits[1]:.2f} s"


def _victims(cluster: Cluster) -> list[tuple[str, Run]]:
    """Return the runs that live at this moment, each with its worker."""
    lively = [
        run
        for run in cluster.runs()
        if run.ended is None and time.monotonic() - run.last < 0.1 and run.planned < 1
    ]
    return [
        (name, run)
        for name in cluster.workers
        for child in cluster.children(name)
        for run in lively
        if child.pid in run.pids
    ]


@drill(runs_killed=True)
def kill_guard(cluster: Cluster, choice: random.Random) -> None:
    """SIGKILL of the guard, then SIGSTOP of the main process: the next guard does it."""
    cluster.produce(200, choice.randrange(1 << 30))
    _long(cluster, choice)
    cluster.await_completed(10)
    name = choice.choice(cluster.workers)
    main = psutil.Process(cluster.processes[name].pid)
    first = _guard(main)
    first.kill()
    eventually(lambda: _guard(main).pid != first.pid and _guard(main), 20)
    hit(cluster, name, choice, 1.5 * cluster.lease)
    _freeze(cluster, name, [main.pid])


def _guard(main: psutil.Process) -> psutil.Process:
    found = [
        child
        for child in main.children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "coordinator.running.guard" in " ".join(child.cmdline())
    ]
    assert found, "the worker has no guard"
    return found[0]

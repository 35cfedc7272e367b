"""Drills on workers of pools that cannot kill a job: the worker goes instead."""

from __future__ import annotations

import random
import signal
import sys
import time
from importlib.util import find_spec

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
from tests.chaos.pauses import pause
from tests.helpers import eventually

NAMES = ("w1", "w2")


def _start(cluster: Cluster, name: str, pool: str) -> None:
    command = [sys.executable, "-m", "celery", "-A", "tests.chaos.app", "worker", "-l", "INFO"]
    command += ["-n", f"{name}@%h", "-Q", "selfplay,training", "-P", pool]
    command += ["-c", "1" if pool == "solo" else "3", "--without-gossip", "--without-mingle"]
    cluster.start(name, *command)


def _await_run(cluster: Cluster, name: str, left: float) -> None:
    """Wait until a job of a worker, by the trace, runs on for so many seconds."""
    pid = cluster.processes[name].pid

    def running() -> bool:
        now = time.monotonic()
        return any(
            run.ended is None and pid in run.pids and run.start + run.planned > now + left
            for run in cluster.runs()
        )

    eventually(running, 60)


def _strike(cluster: Cluster, choice: random.Random, pool: str) -> str:
    for name in NAMES:
        _start(cluster, name, pool)
    cluster.await_workers((*NAMES, "maintenance"))
    blows = ["kill", "freeze", "freeze redis", "term"]
    choice.shuffle(blows)
    for blow in blows:
        cluster.produce(15 if pool == "solo" else 40, choice.randrange(1 << 30))
        name = choice.choice(NAMES)
        long = ("--shortest", "4", "--longest", "5")
        cluster.produce(2 if pool == "solo" else 6, choice.randrange(1 << 30), *long)
        _await_run(cluster, name, 1.5 * cluster.lease)
        with cluster.blow("kill"):
            _hit(cluster, name, blow)
        _await_both(cluster, pool)
    cluster.settle()
    for name in NAMES:
        cluster.kill(name, signal.SIGTERM)
        assert cluster.processes[name].wait(60) == 0
    return ", ".join(blows)


def _await_both(cluster: Cluster, pool: str) -> None:
    def back() -> bool:
        # Again and again: one that was started a moment before Redis froze is ended later than the other.
        for name in NAMES:
            if cluster.processes[name].poll() is not None:
                _start(cluster, name, pool)
        return cluster.present(NAMES)

    eventually(back, 60)


def _hit(cluster: Cluster, name: str, blow: str) -> None:
    process = cluster.processes[name]
    if blow == "kill":
        cluster.kill(name)
    elif blow == "term":
        cluster.kill(name, signal.SIGTERM)
        assert process.wait(60) == 0
    elif blow == "freeze":
        began = time.monotonic()
        cluster.kill(name, signal.SIGSTOP)
        # Killed by its guard, before its lease ends: nobody wakes it up.
        assert process.wait(2 * cluster.lease) == -signal.SIGKILL
        assert time.monotonic() - began < cluster.lease, "the guard was late"
    else:
        cluster.kill("redis", signal.SIGSTOP)
        pause(1.2 * cluster.lease)
        # The other one may have been started a moment ago, and fetch nothing yet: then it may live.
        gone = process.poll()
        cluster.kill("redis", signal.SIGCONT)
        assert gone == -signal.SIGKILL, f"a worker without a lease lives: {gone}"


@drill(runs_killed=True, reusable=False, workers=())
def pool_threads(cluster: Cluster, choice: random.Random) -> str:
    """Threads: a worker that is killed, frozen or cut off is gone before its lease ends, with its jobs."""
    return _strike(cluster, choice, "threads")


@drill(runs_killed=True, reusable=False, workers=())
def pool_solo(cluster: Cluster, choice: random.Random) -> str:
    """The same of the pool without any concurrency."""
    return _strike(cluster, choice, "solo")


def _without_gevent() -> str:
    return "" if find_spec("gevent") else "needs gevent"


@drill(runs_killed=True, reusable=False, skip=_without_gevent, workers=())
def pool_gevent(cluster: Cluster, choice: random.Random) -> str:
    """The same of greenlets."""
    return _strike(cluster, choice, "gevent")

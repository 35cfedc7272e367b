"""Drills on workers that are told to stop, and on those whose number changes."""

from __future__ import annotations

import random
import signal
import time

from tests.chaos.cluster import Cluster
from tests.chaos.drills.jobs import ask
from tests.chaos.drills.registry import drill
from tests.chaos.drills.workers import hit


def _stopped(cluster: Cluster, choice: random.Random, number: int, within: float) -> str:
    """Stop one worker after the other, in jobs that take longer; they go back, and nothing counts against them."""
    slowest = 0.0
    for name in cluster.workers:
        cluster.produce(60, choice.randrange(1 << 30), "--children", "0.2")
        cluster.produce(8, choice.randrange(1 << 30), "--shortest", "4", "--longest", "6")
        hit(cluster, name, choice, 3.5)
        began = time.monotonic()
        cluster.kill(name, number)
        cluster.processes[name].wait(60)
        slowest = max(slowest, time.monotonic() - began)
        cluster.start_worker(name)
        cluster.await_workers((name,))
    assert slowest < within, f"a worker took {slowest:.1f} s to stop"
    cluster.settle()
    rows = cluster.store.stored(sorted(cluster.accepted()))
    counted = [job for job, row in rows.items() if row.losses]
    assert not counted, f"a shutdown counts against {counted}"
    return f"stopped in {slowest:.1f} s"


@drill(runs_killed=True, environment={"COORDINATOR_SHUTDOWN_SECONDS": "0.5"})
def deadline(cluster: Cluster, choice: random.Random) -> str:
    """SIGTERM with a deadline: what is not done by then goes back at once."""
    return _stopped(cluster, choice, signal.SIGTERM, 10.0)


@drill(runs_killed=True)
def sigquit(cluster: Cluster, choice: random.Random) -> str:
    """SIGQUIT: all jobs go back at once."""
    return _stopped(cluster, choice, signal.SIGQUIT, 10.0)


@drill()
def scale(cluster: Cluster, choice: random.Random) -> str:
    """Workers come and go, pools grow and shrink, under load: nothing lost, nothing twice, nothing killed."""
    most = 0
    for _ in range(2):
        cluster.start_worker("w3")
        cluster.await_workers(("w3",))
        for name, change in (("w1", 2), ("w2", -2), ("w1", -1), ("w2", 1)):
            cluster.produce(40, choice.randrange(1 << 30))
            cluster.await_completed(cluster.completed() + 10)
            ask(cluster, _CHANGE.format(name=name, change=change))
            most = max(most, sum(int(worker["slots"]) for worker in cluster.ledger.workers()))
        cluster.kill("w3", signal.SIGTERM)
        cluster.processes["w3"].wait(60)
    cluster.settle()
    killed = [run for run in cluster.runs() if run.ended is None]
    assert not killed, f"runs that were not let finish: {killed}"
    return f"up to {most} slots"


_CHANGE = """
from socket import gethostname
from tests.chaos.app import app
to = dict(destination=["{name}@" + gethostname()], reply=True, timeout=5)
print("null" if (app.control.pool_grow if {change} > 0 else app.control.pool_shrink)(abs({change}), **to) else "1")
"""

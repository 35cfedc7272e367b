"""Drills on the connection between a worker and Redis, through a proxy: slow, cut, and losing replies."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
from tests.chaos.drills.workers import hit
from tests.chaos.pauses import pause
from tests.chaos.proxy import Proxy


@contextlib.contextmanager
def behind(cluster: Cluster, *names: str) -> Iterator[Proxy]:
    """Start workers again behind a proxy, and without it afterwards."""
    with Proxy(cluster.port) as proxy:
        own = cluster.environment
        url = f"redis://127.0.0.1:{proxy.port}/0"
        cluster.environment = {**own, "COORDINATOR_REDIS_URL": url}
        try:
            _again(cluster, *names)
        finally:
            cluster.environment = own
        yield proxy
        proxy.delay, proxy.losing, proxy.down = 0.0, 0.0, False
        cluster.settle()
        _again(cluster, *names)


def _again(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.kill(name, signal.SIGTERM)
        cluster.processes[name].wait(60)
        cluster.start_worker(name)
    cluster.await_workers(names)


@drill(lease=10.0)
def slow_redis(cluster: Cluster, choice: random.Random) -> str:
    """Each reply takes a second: the workers keep their lease, and no run is killed."""
    with behind(cluster, *cluster.workers) as proxy:
        cluster.produce(60, choice.randrange(1 << 30), "--shortest", "0.5", "--longest", "3")
        cluster.await_completed(5)
        proxy.delay = 1.0
        pause(2 * cluster.lease)
        slow = cluster.completed()
        proxy.delay = 0.0
    killed = [run for run in cluster.runs() if run.ended is None]
    assert not killed, f"killed although the lease was long enough: {killed}"
    return f"{slow} completed before it was fast again"


@drill()
def lost_replies(cluster: Cluster, choice: random.Random) -> str:
    """One reply in fifty is lost with its connection: what was done is done once, and said again."""
    with behind(cluster, *cluster.workers) as proxy:
        cluster.produce(250, choice.randrange(1 << 30))
        proxy.losing = 0.02
        cluster.await_completed(200, 120)
        assert proxy.lost > 10, f"only {proxy.lost} replies were lost"
        return f"{proxy.lost} replies lost"


@drill(runs_killed=True)
def cut_off(cluster: Cluster, choice: random.Random) -> str:
    """A worker without network for less, then for more than its lease; the others take over, and it comes back."""
    name = choice.choice(cluster.workers)
    long = ("--shortest", "4", "--longest", "6")
    with behind(cluster, name) as proxy:
        cuts = 0
        for seconds in (0.2 * cluster.lease, 2.0 * cluster.lease):
            cluster.produce(60, choice.randrange(1 << 30), "--children", "0.2")
            cluster.produce(10, choice.randrange(1 << 30), *long)
            hit(cluster, name, choice, 1.5 * cluster.lease)
            with cluster.blow("kill"):
                proxy.down = True
                cuts += proxy.cut()
                pause(seconds)
                proxy.down = False
            cluster.await_workers((name,))
        return f"{cuts} connections cut"

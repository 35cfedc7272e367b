"""Drills on Redis: killed, wiped, set back, cut off."""

from __future__ import annotations

import random
import shutil
import signal

import redis

from tests.chaos.cluster import Cluster, pause
from tests.chaos.drills.registry import drill
from tests.helpers import eventually


def _restored(cluster: Cluster, before: int) -> int:
    """Wait until the ledger has a later epoch and is open; return it."""

    def later() -> int:
        epoch, state = cluster.ledger.redis.hmget("coordinator:meta", "epoch", "open")
        return int(epoch) if epoch and int(epoch) > before and state == "1" else 0

    return eventually(later, 60)


def _epoch(cluster: Cluster) -> int:
    return int(cluster.ledger.redis.hget("coordinator:meta", "epoch"))


@drill()
def kill_redis(cluster: Cluster, choice: random.Random) -> None:
    """Redis kill -9 and back with its append-only file, at once and after longer than a lease."""
    cluster.produce(300, choice.randrange(1 << 30))
    for round_, seconds in enumerate((0.0, 0.5, 1.5 * cluster.lease)):
        cluster.await_completed(40 * round_ + 20)
        epoch = _epoch(cluster)
        with cluster.blow("outage", before=1.2, after=1.0):
            cluster.kill("redis")
            pause(seconds)
            cluster.start_redis()
            _restored(cluster, epoch)


@drill()
def redis_without_files(cluster: Cluster, choice: random.Random) -> None:
    """Redis kill -9 and back empty."""
    cluster.produce(300, choice.randrange(1 << 30))
    for round_ in range(2):
        cluster.await_completed(50 * round_ + 20)
        epoch = _epoch(cluster)
        with cluster.blow("wipe", before=1.2, after=1.0):
            cluster.kill("redis")
            cluster.forget_redis()
            cluster.start_redis()
            _restored(cluster, epoch)


@drill()
def flushall(cluster: Cluster, choice: random.Random) -> None:
    """FLUSHALL under load; a limit and a hold of an operator are back afterwards."""
    cluster.produce(300, choice.randrange(1 << 30))
    for round_ in range(3):
        cluster.await_completed(40 * round_ + 20)
        epoch = _epoch(cluster)
        with (
            cluster.blow("wipe", before=1.0, after=0.0),
            redis.Redis.from_url(cluster.url) as client,
        ):
            client.flushall()
        _restored(cluster, epoch)


@drill()
def old_file(cluster: Cluster, choice: random.Random) -> None:
    """Redis back with an append-only file some seconds old."""
    cluster.produce(400, choice.randrange(1 << 30))
    cluster.await_completed(20)
    data, kept = cluster.folder / "redis", cluster.folder / "kept"
    shutil.copytree(data, kept)
    epoch = _epoch(cluster)
    pause(4)
    with cluster.blow("wipe", before=1.2, after=1.0):
        cluster.kill("redis")
        cluster.forget_redis()
        kept.rename(data)
        cluster.start_redis()
        _restored(cluster, epoch)


@drill(runs_killed=True)
def kill_everything(cluster: Cluster, choice: random.Random) -> None:
    """kill -9 of everything at once, then start again."""
    cluster.produce(200, choice.randrange(1 << 30))
    cluster.await_completed(30)
    epoch = _epoch(cluster)
    with cluster.blow("wipe", before=1.2, after=0.0):
        for process in cluster.marked():
            process.kill()
        for name in list(cluster.processes):
            cluster.processes[name].wait()
    # The job of which the producer had no answer yet is neither accepted nor lost.
    cluster.start_redis()
    for name in (*cluster.workers, "maintenance"):
        cluster.start_worker(name)
    cluster.start("reaper", *_reaper())
    cluster.await_workers()
    _restored(cluster, epoch)


def _reaper() -> tuple[str, ...]:
    import sys

    return sys.executable, "-m", "tests.chaos.reaping"


@drill()
def cut_connections(cluster: Cluster, choice: random.Random) -> None:
    """CLIENT KILL of all connections, again and again: replies are lost, scripts are repeated."""
    cluster.produce(300, choice.randrange(1 << 30))
    with redis.Redis.from_url(cluster.url) as client:
        for round_ in range(10):
            cluster.await_completed(15 * round_ + 10)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@drill()
def freeze_redis(cluster: Cluster, choice: random.Random) -> None:
    """SIGSTOP of Redis for half a lease, and for longer than one: who cannot renew kills its jobs."""
    cluster.produce(300, choice.randrange(1 << 30))
    for round_, seconds in enumerate((cluster.lease / 2, 2 * cluster.lease)):
        cluster.await_completed(40 * round_ + 20)
        with cluster.blow("outage", before=0.5, after=0.5):
            cluster.kill("redis", signal.SIGSTOP)
            pause(seconds)
            cluster.kill("redis", signal.SIGCONT)


@drill()
def kill_restorer(cluster: Cluster, choice: random.Random) -> None:
    """A process that restores is killed or frozen in the middle; another one does it, and the first is refused."""
    cluster.produce(300, choice.randrange(1 << 30))
    cluster.await_completed(20)
    epoch = _epoch(cluster)
    with cluster.blow("wipe", before=1.0, after=0.0), redis.Redis.from_url(cluster.url) as client:
        client.flushall()
        client.flushall()
        client.flushall()
    _restored(cluster, epoch)

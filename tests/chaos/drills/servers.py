"""Drills on Redis: killed, wiped, set back, cut off."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
from collections.abc import Callable

import redis

from tests.chaos.cluster import FAKETIME, Cluster
from tests.chaos.drills.registry import drill
from tests.chaos.pauses import pause
from tests.chaos.traces import Blow
from tests.helpers import eventually, free_port


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
        with cluster.blow("wipe"):
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
        with cluster.blow("wipe"):
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
            cluster.blow("wipe"),
            redis.Redis.from_url(cluster.url) as client,
        ):
            client.flushall()
        _restored(cluster, epoch)


#: How old the state is with which a server comes back, in seconds.
AGE = 10.0


@drill()
def old_file(cluster: Cluster, choice: random.Random) -> None:
    """Redis back with an append-only file ten seconds old."""
    cluster.produce(350, choice.randrange(1 << 30), "--pause", "0.03")
    cluster.await_completed(20)
    data, kept = cluster.folder / "redis", cluster.folder / "kept"
    shutil.copytree(data, kept)
    epoch = _epoch(cluster)
    pause(AGE)
    with cluster.blow("wipe"):
        cluster.kill("redis")
    cluster.forget_redis()
    kept.rename(data)
    cluster.start_redis()
    _restored(cluster, epoch)


@drill()
def lagging_replica(cluster: Cluster, choice: random.Random) -> None:
    """A failover to another server, whose replication stopped ten seconds ago."""
    cluster.produce(350, choice.randrange(1 << 30), "--pause", "0.03")
    port = free_port()
    cluster.start_redis("replica", port, "--replicaof", "127.0.0.1", str(cluster.port))
    with redis.Redis(port=port) as replica:
        eventually(lambda: replica.info("replication")["master_link_status"] == "up", 20)
        cluster.await_completed(20)
        replica.execute_command("REPLICAOF", "NO", "ONE")
        assert replica.dbsize() > 0
        epoch = _epoch(cluster)
        pause(AGE)
        # Its file is what it knows, whatever it was told before.
        replica.execute_command("CONFIG", "SET", "appendfsync", "always")
    with cluster.blow("wipe"):
        cluster.kill("redis")
    cluster.kill("replica")
    cluster.forget_redis()
    (cluster.folder / "replica").rename(cluster.folder / "redis")
    cluster.start_redis()
    _restored(cluster, epoch)


def _without_faketime() -> str:
    return "" if FAKETIME else "needs libfaketime (Debian's package faketime)"


@drill(clocks={"w1": 3600, "w2": -3600})
def worker_clocks(cluster: Cluster, choice: random.Random) -> None:
    """The clocks of two workers are off by an hour, in both directions; one of them restores."""
    cluster.produce(300, choice.randrange(1 << 30), "--failing", "0.2")
    for round_ in range(2):
        cluster.await_completed(80 * round_ + 40)
        epoch = _epoch(cluster)
        with cluster.blow("wipe"):
            cluster.ledger.redis.flushall()
        _restored(cluster, epoch)


@drill(skip=_without_faketime, stepping=True)
def step_clock(cluster: Cluster, choice: random.Random) -> str:
    """Redis's clock is stepped forward and back, by more and by less than a lease, by an hour, by a day."""
    cluster.produce(350, choice.randrange(1 << 30), "--failing", "0.2", "--pause", "0.02")
    steps = [int(cluster.lease) + 1, -1, 3600, -3600, 86_400, 0]
    choice.shuffle(steps)
    for round_, seconds in enumerate(steps):
        cluster.await_completed(45 * round_ + 20)
        cluster.step_redis(seconds)
    cluster.settle()
    cluster.step_redis(0)
    return f"steps to {steps}"


@drill(runs_killed=True)
def kill_everything(cluster: Cluster, choice: random.Random) -> None:
    """kill -9 of everything at once, then start again."""
    cluster.produce(200, choice.randrange(1 << 30))
    cluster.await_completed(30)
    epoch = _epoch(cluster)
    with cluster.blow("kill"):
        # Redis writes its title over its environment, by which all others are found.
        for process in (*cluster.processes.values(), *cluster.marked()):
            process.kill()
        for started in cluster.started:
            started.wait()
    # The job of which the producer had no answer yet is neither accepted nor lost.
    cluster.start_redis()
    for name in (*cluster.workers, "maintenance"):
        cluster.start_worker(name)
    cluster.start_reaper()
    cluster.await_workers()
    _restored(cluster, epoch)


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
        with cluster.blow("wipe"):
            cluster.kill("redis", signal.SIGSTOP)
        pause(seconds)
        cluster.kill("redis", signal.SIGCONT)


@drill()
def kill_restorer(cluster: Cluster, choice: random.Random) -> str:
    """A process that restores is killed, then another one frozen in the middle and woken when it is too late."""
    cluster.produce(300, choice.randrange(1 << 30), "--pause", "0.06")
    cluster.await_completed(20)
    for how in ("kill", "freeze"):
        epoch = _epoch(cluster)
        restorer = cluster.start(how, sys.executable, "-m", "tests.chaos.restoring", how)
        _begun(cluster, epoch)
        # Not when the process was started: it takes seconds to come so far.
        told = re.findall(r"^wiped: ([\d.]+)$", (cluster.folder / f"{how}.log").read_text(), re.M)
        moment = float(told[-1])
        cluster.blows.append(Blow("wipe", moment, moment + 0.05))
        done = cluster.completed()
        last = _restored(cluster, epoch + 1)
        if how == "kill":
            assert restorer.wait(10) == -signal.SIGKILL
        else:
            # The other one's ledger is at work before the first one goes on.
            cluster.await_completed(done + 10)
            restorer.send_signal(signal.SIGCONT)
            assert restorer.wait(30) == 0
            assert "restored: False" in (cluster.folder / "freeze.log").read_text()
        assert _epoch(cluster) == last
    return f"epoch {last}"


def _begun(cluster: Cluster, before: int) -> None:
    """Wait until somebody builds a later epoch."""
    meta = cluster.ledger.redis
    eventually(lambda: int(meta.hget("coordinator:meta", "epoch") or 0) > before, 30)


@drill()
def storm(cluster: Cluster, choice: random.Random) -> str:
    """All of it at random, with 20 models and 500 jobs."""
    for share in ("0.0", "0.3"):
        cluster.produce(250, choice.randrange(1 << 30), "--children", share, "--pause", "0.05")
    blows = []
    while cluster.completed() < 400:
        name = choice.choice(tuple(BLOWS))
        blows.append(name)
        BLOWS[name](cluster, choice)
        cluster.revive()
        cluster.await_completed(min(450, cluster.completed() + choice.randrange(5, 30)), 120)
    return f"{len(blows)} blows: {', '.join(sorted(set(blows)))}"


@drill(slots=2)
def brief(cluster: Cluster, choice: random.Random) -> None:
    """Some of the worst, in less than half a minute: what the ordinary tests run."""
    cluster.produce(60, choice.randrange(1 << 30), "--children", "0.2")
    cluster.await_completed(5)
    for name in ("kill child", "flushall", "kill worker"):
        BLOWS[name](cluster, choice)
        cluster.await_completed(cluster.completed() + 5, 60)


def _kill_child(cluster: Cluster, choice: random.Random) -> None:
    with cluster.blow("kill"):
        for child in cluster.busy(choice.choice(cluster.workers))[:1]:
            child.kill()


def _kill_worker(cluster: Cluster, choice: random.Random) -> None:
    name = choice.choice((*cluster.workers, "maintenance"))
    with cluster.blow("kill"):
        cluster.kill(name)
    cluster.start_worker(name)


def _freeze_worker(cluster: Cluster, choice: random.Random) -> None:
    name = choice.choice(cluster.workers)
    with cluster.blow("kill"):
        cluster.kill(name, signal.SIGSTOP)
        pause(choice.uniform(0.1, 2 * cluster.lease))
        cluster.kill(name, signal.SIGCONT)


def _kill_redis(cluster: Cluster, choice: random.Random) -> None:
    with cluster.blow("wipe"):
        cluster.kill("redis")
    pause(choice.uniform(0.0, cluster.lease))
    cluster.start_redis()


def _flushall(cluster: Cluster, choice: random.Random) -> None:
    with cluster.blow("wipe"):
        cluster.ledger.redis.flushall()


def _cut(cluster: Cluster, choice: random.Random) -> None:
    cluster.ledger.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _restart_worker(cluster: Cluster, choice: random.Random) -> None:
    name = choice.choice(cluster.workers)
    cluster.processes[name].send_signal(signal.SIGTERM)
    cluster.processes[name].wait(60)
    cluster.start_worker(name)


BLOWS: dict[str, Callable[[Cluster, random.Random], None]] = {
    "kill child": _kill_child,
    "kill worker": _kill_worker,
    "freeze worker": _freeze_worker,
    "kill redis": _kill_redis,
    "flushall": _flushall,
    "cut connections": _cut,
    "restart worker": _restart_worker,
}

"""Drills on the store, its recorder and the producers."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
from tests.chaos.drills.workers import hit
from tests.chaos.pauses import pause
from tests.helpers import eventually


@drill()
def kill_producers(cluster: Cluster, choice: random.Random) -> str:
    """Producers SIGKILLed between the row and the ledger, at that very line."""
    for index in range(3):
        cluster.produce(60, choice.randrange(1 << 30), "--die-at", str(10 + 15 * index))
    died = [producer.wait(60) for producer in cluster.producers]
    assert died == [-9, -9, -9], f"the producers did not die where they should: {died}"
    # Their rows are committed, so these jobs are accepted although nobody was told.
    caught = cluster.tried() - cluster.accepted()
    assert len(caught) == 3
    eventually(lambda: caught <= {run.job for run in cluster.runs() if run.ended is not None}, 30)
    return f"{len(caught)} entered by the reaper"


@drill()
def kill_recorder(cluster: Cluster, choice: random.Random) -> None:
    """SIGKILL of the process that records, under load."""
    cluster.produce(300, choice.randrange(1 << 30))
    for round_ in range(3):
        cluster.await_completed(40 * round_ + 10)
        cluster.kill("maintenance")
        cluster.start_worker("maintenance")
        cluster.await_workers(("maintenance",))


@drill(runs_killed=True, environment={"COORDINATOR_DURABILITY": "redis"})
def without_rows(cluster: Cluster, choice: random.Random) -> None:
    """Producers that write no rows: workers and recorder killed, Redis wiped once the rows are recorded."""
    cluster.produce(200, choice.randrange(1 << 30))
    for round_, name in enumerate(("w1", "maintenance", "w2")):
        cluster.await_completed(15 * round_ + 10)
        if name != "maintenance":
            hit(cluster, name, choice)
        with cluster.blow("kill"):
            cluster.kill(name)
        cluster.start_worker(name)
    assert cluster.producers[0].wait(60) == 0
    wanted = sorted(cluster.accepted())
    eventually(lambda: len(cluster.store.stored(wanted)) == len(wanted), 30)
    with cluster.blow("wipe"):
        cluster.ledger.redis.flushall()


@drill()
def lock_database(cluster: Cluster, choice: random.Random) -> None:
    """The database is locked by somebody else for seconds: what runs and waits goes on."""
    cluster.produce(200, choice.randrange(1 << 30))
    for round_ in range(2):
        cluster.await_completed(30 * round_ + 10)
        connection = sqlite3.connect(cluster.database, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        pause(4)
        connection.execute("ROLLBACK")
        connection.close()


@drill()
def lock_database_for_long(cluster: Cluster, choice: random.Random) -> str:
    """The same for longer than anybody waits for a lock: producers get an error, and what was accepted runs."""
    cluster.produce(200, choice.randrange(1 << 30), "--pause", "0.02")
    cluster.await_completed(30)
    before = len(cluster.accepted())
    connection = sqlite3.connect(cluster.database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    pause(LOCKED)
    done = cluster.completed()
    connection.execute("ROLLBACK")
    connection.close()
    assert done >= before - 20, (
        f"{done} of {before} accepted jobs ran while the database was locked"
    )
    refused = cluster.refused()
    assert refused, "no producer was told"
    return f"{refused} refusals"


#: Longer than the store waits for a lock, in seconds.
LOCKED = 12.0


def _without_mount() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "mounts a disk: needs root"


@drill(skip=_without_mount, disk="40m")
def full_disk(cluster: Cluster, choice: random.Random) -> str:
    """The disk of the database is full for seconds: producers get an error, and what was accepted runs."""
    cluster.produce(250, choice.randrange(1 << 30), "--pause", "0.08")
    filler = cluster.database.parent / "filler"
    for round_ in range(2):
        cluster.await_completed(40 * round_ + 20)
        refused = cluster.refused()
        _fill(filler)
        _refuses(cluster, refused)
        pause(2)
        filler.unlink()
    return f"{cluster.refused()} refusals"


def _refuses(cluster: Cluster, before: int) -> None:
    eventually(lambda: cluster.refused() > before, 20)


def _fill(path: Path) -> None:
    """Write until there is no byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@drill()
def lose_database_and_redis(cluster: Cluster, choice: random.Random) -> None:
    """FLUSHALL while the database is locked: the restore waits for it, and nobody is admitted."""
    cluster.produce(200, choice.randrange(1 << 30))
    cluster.await_completed(20)
    connection = sqlite3.connect(cluster.database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with cluster.blow("wipe"):
        cluster.ledger.redis.flushall()
    pause(1.5 * cluster.lease)
    connection.execute("ROLLBACK")
    connection.close()

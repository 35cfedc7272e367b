"""Drills on the store, its recorder and the producers."""

from __future__ import annotations

import random
import sqlite3

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

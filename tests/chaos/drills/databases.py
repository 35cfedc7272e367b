"""Drills on the store, its recorder and the producers."""

from __future__ import annotations

import random
import sqlite3

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
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
    with cluster.blow("wipe", before=1.0, after=0.2):
        cluster.ledger.redis.flushall()
    pause(1.5 * cluster.lease)
    connection.execute("ROLLBACK")
    connection.close()

"""How fairly the ledger shares its turns between orgs of different weights."""

from __future__ import annotations

import itertools
import random
import uuid
from collections import Counter
from collections.abc import Iterator

from benchmarks.driver import QUEUE, WORKER, Driver, batches
from benchmarks.figures import Row
from benchmarks.servers import RedisServer
from benchmarks.workload import Sizes

#: Starts in a window over which an org's share is looked at.
WINDOW = 100


def fairness(server: RedisServer, sizes: Sizes) -> Iterator[Row]:
    for weights in ({"A": 1, "B": 1, "C": 1}, {"A": 1, "B": 2, "C": 5}):
        server.client.flushall()
        driver = Driver(server, sizes["fair_slots"])
        for org, weight in weights.items():
            driver.ledger.weigh(org, weight, "benchmark")
        starts, newcomer = _turns(driver, weights, sizes["starts"])
        # Of the starts before the newcomer and of those after it.
        errors = [
            _share_error(part, weights | extra)
            for part, extra in ((starts[:newcomer], {}), (starts[newcomer:], {"N": 1}))
        ]
        named = ":".join(str(weight) for weight in weights.values())
        row = Row(f"fairness, weights {named}", table="Turns between orgs")
        row.figures = {
            "share_error": max(errors),
            "newcomer": starts[newcomer:].index("N"),
            "round": sum(weights.values()) + 1,
        }
        yield row


def _turns(driver: Driver, weights: dict[str, int], count: int) -> tuple[list[str], int]:
    """Run a backlog of some orgs; a new one comes at half time. Returns the orgs in the order in which their
    jobs started, and how many had been dispatched when the new one came."""
    ledger, numbers = driver.ledger, itertools.count()
    orgs: dict[str, str] = {}

    def submit(org: str, jobs: int) -> None:
        for batch in batches(jobs):
            entered = [driver.job(f"model-{next(numbers):06d}", org) for _ in range(batch)]
            orgs.update((job.job_id, org) for job in entered)
            ledger.submit(entered)

    generator = random.Random(1)
    total = sum(weights.values())
    for org, weight in generator.sample(sorted(weights.items()), len(weights)):
        submit(org, 2 * count * weight // total + 2 * WINDOW)
    dispatched: list[str] = []
    running = driver.running
    newcomer = ahead = 0
    while len(dispatched) < count:
        while (found := driver.deliver()) is not None:
            dispatched.append(orgs[found[0]])
            ledger.claim(*found, uuid.uuid4().hex, WORKER)
            running.append(found)
        if not newcomer and len(dispatched) >= count // 2:
            newcomer = len(dispatched)
            ahead = ledger.redis.llen(QUEUE)
            submit("N", count)
        # Slots come back one by one, in no particular order.
        job_id, token = running.pop(generator.randrange(len(running)))
        ledger.finish(job_id, token, "completed", {})
        if len(dispatched) % WINDOW == 0:
            driver.settle()
    # What was dispatched already when it came is not passed by anybody.
    return dispatched, newcomer + ahead


def _share_error(starts: list[str], weights: dict[str, int]) -> float:
    """Return by how many percent of the starts an org's share is off its weight, in the worst window."""
    worst, total = 0.0, sum(weights.values())
    # The first round is where a new org begins; the shares are owed from then on.
    for first in range(len(starts) - WINDOW):
        found = Counter(starts[first : first + WINDOW])
        for org, weight in weights.items():
            worst = max(worst, abs(found[org] / WINDOW - weight / total) * 100)
    return worst

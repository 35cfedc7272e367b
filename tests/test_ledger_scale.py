"""What an operation costs does not grow with what waits: counted in commands, not in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.resources import needs_of

BATCH = 200


class Counting:
    """A ledger whose operations are counted in commands that Redis carried out for them."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger(url, "t:")
        self.redis: Any = self.ledger.redis
        self.ledger.open(1)
        self.ledger.configure({"model": "1", "ahead_ms": "-1"})
        self.ledger.renew("w", ["q"], 1_000_000, register=True)
        self.number = 0

    def job(self, models: list[str], **more: Any) -> Job:
        self.number += 1
        job_id = f"j{self.number}"
        needs = needs_of("q", models, more.get("org"))
        return Job(job_id, "task", "q", needs, f'{{"headers":{{"id":"{job_id}"', **more)

    def submit(self, number: int, models: Callable[[int], list[str]], **more: Any) -> None:
        for start in range(0, number, BATCH):
            batch = range(start, min(start + BATCH, number))
            self.ledger.submit([self.job(models(index), **more) for index in batch])

    def cost(self, call: Callable[[], object]) -> int:
        """Return the number of Redis commands of a call, those inside scripts included."""
        self.redis.config_resetstat()
        call()
        stats: dict[str, dict[str, int]] = self.redis.info("commandstats")
        counted = ("config", "info")
        return sum(
            item["calls"]
            for name, item in stats.items()
            if not name.removeprefix("cmdstat_").startswith(counted)
        )

    def start(self, job_id: str) -> int:
        token = int(self.redis.hget(f"t:job:{job_id}", "token"))
        assert self.ledger.claim(job_id, token, job_id, "w").granted
        return token

    def tick(self) -> None:
        """Two in the same millisecond would have a little less to do."""
        self.redis.hincrby("t:meta", "clock_offset", 1)
        self.ledger.tick()

    def run_one(self, job_id: str) -> dict[str, int]:
        """Claim and finish a dispatched job, then submit one that waits and one that starts."""
        costs = {}
        token = int(self.redis.hget(f"t:job:{job_id}", "token"))
        costs["claim"] = self.cost(lambda: self.ledger.claim(job_id, token, job_id, "w"))
        costs["finish"] = self.cost(lambda: self.ledger.finish(job_id, token, "completed"))
        waiting = self.job(["m0"])
        costs["submit waiting"] = self.cost(lambda: self.ledger.submit([waiting]))
        free = self.job(["free"])
        costs["submit free"] = self.cost(lambda: self.ledger.submit([free]))
        costs["cancel"] = self.cost(lambda: self.ledger.cancel(waiting.job_id, "", ""))
        self.ledger.tick()  # one that comes late extends leases
        # Each looks at other jobs of several models.
        costs["tick"] = max(self.cost(self.tick) for _ in range(8))
        costs["renew"] = self.cost(lambda: self.ledger.renew("w", ["q"], 1_000_000))
        self.ledger.cancel(free.job_id, "", "")
        return costs


@pytest.fixture
def counting(redis_url: str) -> Iterator[Counting]:
    ledger = Counting(redis_url)
    yield ledger
    ledger.ledger.pool.disconnect()


def _holder(counting: Counting, model: str) -> str:
    (job_id,) = counting.ledger.holders(f"model:{model}")
    return job_id


def test_cost_is_the_same_whatever_waits_for_one_model(counting: Counting) -> None:
    counting.submit(20, lambda _: ["m0"])
    counting.run_one(_holder(counting, "m0"))  # loads the scripts
    few = counting.run_one(_holder(counting, "m0"))
    counting.submit(4_000, lambda _: ["m0"])
    assert counting.run_one(_holder(counting, "m0")) == few


def test_cost_is_the_same_whatever_waits_for_other_models(counting: Counting) -> None:
    counting.submit(40, lambda index: [f"m{index % 2}"])
    # What waits for several models is looked at for the reservation, three at a time.
    counting.ledger.hold("model:shared", "me")
    counting.submit(12, lambda index: [f"other{index % 3}", "shared"])
    counting.submit(1, lambda _: ["busy"])
    counting.submit(1, lambda _: ["busy", "idle"])
    counting.run_one(_holder(counting, "m0"))  # loads the scripts
    few = counting.run_one(_holder(counting, "m0"))
    counting.submit(3_000, lambda index: [f"other{index % 500}"])
    counting.submit(1_000, lambda index: [f"other{index % 500}", f"other{index % 499}"])
    many = counting.run_one(_holder(counting, "m0"))
    assert many == few


@pytest.mark.parametrize("orgs", [1, 300])
def test_one_script_tries_a_bounded_number_of_classes(counting: Counting, orgs: int) -> None:
    """Half a thousand classes of several resources wait for one; it is held, resumed and freed."""
    counting.ledger.hold("model:shared", "me")
    counting.submit(600, lambda index: ["shared", f"m{index}"])
    for index in range(orgs):
        counting.submit(1, lambda _: ["shared"], org=f"o{index}")
    counting.ledger.limit("model:shared", 10_000, "me")
    resume = counting.cost(lambda: counting.ledger.resume("model:shared", "me"))
    assert resume < 40 * 50
    rounds = 0
    while counting.redis.exists("t:wakes"):
        assert counting.cost(lambda: counting.ledger.run("tick")) < 40 * 50
        rounds += 1
        assert rounds < 40


def test_configured_limits_wake_in_bounded_steps(counting: Counting) -> None:
    counting.submit(1_000, lambda index: [f"m{index % 500}"])
    assert counting.cost(lambda: counting.ledger.configure({"model": "2"})) < 40 * 50 + 4 * 500
    while counting.redis.exists("t:wakes"):
        assert counting.cost(lambda: counting.ledger.run("tick")) < 40 * 50
    assert counting.ledger.counts() == {("q", "dispatched"): 1_000}


def test_a_waiting_job_costs_little_memory(counting: Counting) -> None:
    """At most its message plus 700 bytes; events are trimmed once the store has them."""
    counting.submit(BATCH, lambda _: ["m0"])
    counting.redis.delete("t:events")
    before = counting.redis.info("memory")["used_memory"]
    counting.submit(3_000, lambda _: ["m0"])
    counting.redis.delete("t:events")
    after = counting.redis.info("memory")["used_memory"]
    assert (after - before) / 3_000 < len('{"headers":{"id":"j3000"') + 700


def test_runs_that_their_worker_forgot_are_taken_back_in_pieces(counting: Counting) -> None:
    counting.ledger.renew("w", ["q"], 300, register=True)
    counting.submit(200, lambda index: [f"m{index}"])
    for index in range(200):
        counting.start(f"j{index + 1}")
    for _ in range(2):
        counting.redis.hincrby("t:meta", "clock_offset", 14_000)
        counting.ledger.renew("w", ["q"], 300)
        counting.ledger.tick()
    counting.redis.hincrby("t:meta", "clock_offset", 5_000)

    def forget() -> None:
        assert counting.ledger.renew("w", ["q"], 300).answer == "ok"

    rounds = 0
    while counting.redis.exists("t:worker:w:jobs"):
        assert counting.cost(forget) < 20 * 60 + 200
        rounds += 1
        assert rounds < 30


def test_many_models_of_one_job_count_as_much_as_many_jobs(counting: Counting) -> None:
    def models(index: int) -> list[str]:
        return [f"m{index}.{number}" for number in range(64)]

    counting.ledger.hold("queue:q", "me")
    counting.submit(60, models)
    assert counting.cost(lambda: counting.ledger.resume("queue:q", "me")) < 2000
    while counting.redis.exists("t:wakes"):
        assert counting.cost(lambda: counting.ledger.run("tick")) < 2000
    assert counting.ledger.counts() == {("q", "dispatched"): 60}


def test_an_owner_with_many_waiting_jobs_starts_them_in_pieces(counting: Counting) -> None:
    counting.submit(1, lambda _: ["shared"])
    token = counting.start("j1")
    counting.submit(200, lambda index: ["shared", f"m{index}"], owner="workflow-1")
    assert counting.cost(lambda: counting.ledger.finish("j1", token, "completed")) < 2000
    rounds = 0
    while counting.redis.exists("t:wakes"):
        assert counting.cost(lambda: counting.ledger.run("tick")) < 2000
        rounds += 1
        assert rounds < 30
    assert counting.ledger.counts()["q", "dispatched"] == 200


def test_positions_behind_many_orgs_are_not_counted_job_by_job(counting: Counting) -> None:
    counting.ledger.hold("queue:q", "me")
    for index in range(100):
        counting.submit(1, lambda _: [], org=f"o{index}")
    batch = [counting.job([], org=f"new{index}") for index in range(20)]
    assert counting.cost(lambda: counting.ledger.submit(batch)) < 1000

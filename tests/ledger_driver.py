"""Short words for what the tests of the ledger do again and again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.resources import needs_of
from coordinator.verification import verify

T = TypeVar("T")

LEASE = 30_000


class Driver:
    """An open ledger, and workers that do as the test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ledger = Ledger(url, "t:")
        self.redis: Any = self.ledger.redis
        self.number = 0
        self.offset = 0
        self.ledger.open(1)
        self.ledger.configure({"model": "1", "lease_ms": str(LEASE), "claim_ms": str(LEASE)})
        self.ledger.configure({"ahead_ms": "-1", "reservation_ms": "1000000000000"})

    def job(self, job_id: str, *models: str, queue: str = "q", **more: Any) -> Job:
        needs = needs_of(queue, models, more.get("org"), more.pop("integration", None))
        message = f'{{"headers":{{"id":{json.dumps(job_id)}'
        return Job(job_id, more.pop("task", "task"), queue, needs, message, **more)

    def submit(self, job_id: str, *models: str, **more: Any) -> str:
        return self.ledger.submit([self.job(job_id, *models, **more)])[0].state

    def work(self, name: str = "w", queues: tuple[str, ...] = ("q",), slots: int = 10) -> None:
        assert self.ledger.renew(name, queues, slots, register=True).answer == "ok"

    def token(self, job_id: str) -> int:
        job = self.ledger.job(job_id)
        assert job is not None
        return int(job["token"])

    def start(self, job_id: str, worker: str = "w") -> int:
        """Claim a dispatched job, as a worker that fetched its message."""
        token = self.token(job_id)
        self.redis.lrem(self.state(job_id, "queue"), 1, self.delivery(job_id))
        self.number += 1
        assert self.ledger.claim(job_id, token, f"n{self.number}", worker).granted
        return token

    def delivery(self, job_id: str) -> str:
        return f'{self.ledger.message(job_id)},"coordinator_token":{self.token(job_id)}}}}}'

    def state(self, job_id: str, name: str = "state") -> str:
        return (self.ledger.job(job_id) or {}).get(name, "gone")

    def shift(self, milliseconds: int) -> None:
        self.offset += milliseconds
        self.redis.hset("t:meta", "clock_offset", self.offset)

    def now(self) -> int:
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000 + self.offset

    def events(self, *verbs: str) -> list[Event]:
        return [event for event in self.ledger.read_events(10_000) if event.verb in verbs]

    def started(self) -> list[str]:
        return [event.job_id for event in self.events("dispatched")]

    def at_once(self, calls: Sequence[Callable[[Ledger], T]]) -> list[T]:
        """Make calls from as many connections at the same moment."""
        barrier = threading.Barrier(len(calls))
        ledgers = [Ledger(self.url, "t:") for _ in calls]

        def make(call: Callable[[Ledger], T], ledger: Ledger) -> T:
            ledger.redis.ping()
            barrier.wait()
            return call(ledger)

        with ThreadPoolExecutor(len(calls)) as threads:
            answers = list(threads.map(make, calls, ledgers))
        for ledger in ledgers:
            ledger.pool.disconnect()
        return answers


@pytest.fixture
def at(redis_url: str) -> Iterator[Driver]:
    """An open ledger; after the test nothing in it may have drifted."""
    driver = Driver(redis_url)
    yield driver
    assert not verify(driver.ledger)
    driver.ledger.pool.disconnect()

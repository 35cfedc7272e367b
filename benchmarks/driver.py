"""Drives the ledger's scripts as producers and workers do, without Celery."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.servers import RedisServer
from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.messages.transport import template_of
from coordinator.resources import needs_of

QUEUE, WORKER = "bench", "worker"

#: Leases so long that none ends, in milliseconds: nobody renews while a million jobs are entered.
LEASE_MS = 24 * 3_600_000

#: Jobs entered in one call while filling.
BATCH = 200


def message(job_id: str, model: str) -> str:
    """Return a message as long as Celery's own for a task with three arguments."""
    return template_of(
        {
            "body": "W1sxMjM0NTY3LCAibW9kZWwtMTIzNDUiLCAwLjBdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOi"
            "BudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": "work",
                "id": job_id,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": job_id,
                "parent_id": None,
                "argsrepr": f"(1234567, '{model}', 0.0)",
                "kwargsrepr": "{}",
                "origin": "gen12345@host",
                "ignore_result": False,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
                "coordinator": {"models": [model], "max_retries": 3},
            },
            "properties": {
                "correlation_id": job_id,
                "reply_to": str(uuid.UUID(int=1)),
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": QUEUE},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.UUID(int=2)),
            },
        }
    )


class Driver:
    """A ledger with one worker, and a clock on each of its calls.

    Args:
        server: an empty Redis.
        slots: jobs the worker runs at once.
    """

    def __init__(self, server: RedisServer, slots: int) -> None:
        self.server, self.slots = server, slots
        self.ledger = Ledger(server.url)
        self.ledger.open(1)
        lease = str(LEASE_MS)
        self.ledger.configure({"model": "1", "lease_ms": lease, "claim_ms": lease})
        self.ledger.renew(WORKER, [QUEUE], slots, register=True)
        self.client: dict[str, list[float]] = {}
        self.time: dict[str, list[float]] = {}
        self.running: list[tuple[str, int]] = []
        self._ids = itertools.count()

    def job(self, model: str, org: str | None = None) -> Job:
        job_id = str(uuid.UUID(int=next(self._ids), version=4))
        needs = needs_of(QUEUE, [model], org)
        return Job(job_id, "work", QUEUE, needs, message(job_id, model), org=org)

    def clocked(self, name: str, call: Callable[..., object], *arguments: Any) -> None:
        """Call, and note the microseconds it took the server and this client."""
        before = self._server_us()
        began = time.perf_counter_ns()
        call(*arguments)
        self.client.setdefault(name, []).append((time.perf_counter_ns() - began) / 1e3)
        self.time.setdefault(name, []).append(self._server_us() - before)

    def _server_us(self) -> int:
        found = self.server.info("commandstats").get("cmdstat_evalsha")
        return int(found["usec"]) if found else 0

    def deliver(self) -> tuple[str, int] | None:
        """Take the next message from the broker's list, as a worker with a free slot does: job and token."""
        if len(self.running) >= self.slots:
            return None
        raw = self.ledger.redis.rpop(QUEUE)
        if raw is None:
            return None
        headers = json.loads(raw)["headers"]
        return headers["id"], headers["coordinator_token"]

    def settle(self) -> None:
        """Forget what happened, as the recorder does once it is stored."""
        while events := self.ledger.read_events(1000):
            self.ledger.settle(events)

    def fill(self, level: int, another: Callable[[], Job]) -> int:
        """Submit jobs until so many wait; returns how many were submitted."""
        entered = 0
        while (short := level - self.waiting()) > 0:
            for count in batches(short):
                self.ledger.submit([another() for _ in range(count)])
                # What is recorded at once in a real ledger must not count as memory of waiting jobs.
                self.ledger.redis.xtrim("coordinator:events", maxlen=0, approximate=False)
                entered += count
        return entered

    def waiting(self) -> int:
        return self.ledger.counts().get((QUEUE, "waiting"), 0)


def batches(count: int) -> Iterator[int]:
    while count > 0:
        yield min(BATCH, count)
        count -= BATCH

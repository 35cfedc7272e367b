"""The ledger alone: what each operation costs at which number of waiting jobs, beside bare Redis commands.

Drives the scripts as producers and workers do, without Celery. Server time is what the scripts added to
``INFO commandstats``, client time is the call from Python.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.profiles import profiled
from benchmarks.servers import RedisServer
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.resources import needs_of
from coordinator.transport import template_of

QUEUE, WORKER = "bench", "worker"

#: Leases so long that none ends, in milliseconds: nobody renews while a million jobs are entered.
LEASE_MS = 24 * 3_600_000

#: Jobs entered in one call while filling.
BATCH = 200

_SIX = """
redis.call('HGET', KEYS[1], 'a')
redis.call('RPUSH', KEYS[2], 'x')
redis.call('LPOP', KEYS[2])
redis.call('SET', KEYS[3], 'v', 'PX', 60000)
redis.call('ZADD', KEYS[4], 1, 'm')
redis.call('INCR', KEYS[5])
return 1
"""


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

    def waiting(self) -> int:
        return self.ledger.counts().get((QUEUE, "waiting"), 0)


def cases(sizes: Sizes) -> list[Case]:
    found = [Case(f"models {n:,}", values={"models": n}) for n in sizes["models"]]
    return [Case("bare commands"), *found, Case("fairness")]


def measure(context: Context) -> list[Row]:
    def action() -> list[Row]:
        with RedisServer(context.folder / "redis") as server:
            if context.case.name == "bare commands":
                return _bare(server, context.sizes["cycles"])
            if context.case.name == "fairness":
                return list(_fairness(server, context.sizes))
            return list(_levels(server, context.case, context.sizes))

    if context.profile is None:
        return action()
    return profiled(action, context.profile / f"{context.case.name.replace(' ', '-')}.prof")


# -- bare commands -------------------------------------------------------------------------------------


def _bare(server: RedisServer, calls: int) -> list[Row]:
    client = server.client
    trivial, six = str(client.script_load("return 1")), str(client.script_load(_SIX))
    keys = ["h", "l", "s", "z", "i"]
    bare: dict[str, tuple[str, Callable[[], object]]] = {
        "bare PING": ("ping", client.ping),
        "bare EVALSHA return 1": ("evalsha", lambda: client.evalsha(trivial, 0)),
        "bare EVALSHA of six commands": ("evalsha", lambda: client.evalsha(six, 5, *keys)),
    }
    rows = []
    for name, (command, call) in bare.items():
        client.config_resetstat()
        took = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            call()
            took.append((time.perf_counter_ns() - began) / 1e3)
        used = server.info("commandstats")[f"cmdstat_{command}"]
        figures = {"call": used["usec"] / used["calls"], "call_client": quantile(took, 0.5)}
        rows.append(Row(name, dict(figures), table="Bare commands"))
    return rows


# -- levels of waiting jobs ----------------------------------------------------------------------------


def _levels(server: RedisServer, case: Case, sizes: Sizes) -> Iterator[Row]:
    models = case.values["models"]
    driver = Driver(server, sizes["slots"])
    numbers = itertools.count()

    def another() -> Job:
        return driver.job(f"model-{next(numbers) % models:05d}")

    # Now all slots are taken, or all models: what is submitted from here on waits.
    driver.ledger.submit([another() for _ in range(driver.slots)])
    driver.settle()
    _slowest(server)
    base, before = server.memory(), driver.waiting()
    longest_fill = 0.0
    for level in sizes["levels"]:
        began, entered = time.perf_counter(), 0
        while (short := level - driver.waiting()) > 0:
            for count in _batches(short):
                driver.ledger.submit([another() for _ in range(count)])
                # What is recorded at once in a real ledger must not count as memory of waiting jobs.
                driver.ledger.redis.xtrim("coordinator:events", maxlen=0, approximate=False)
                entered += count
        seconds = time.perf_counter() - began
        longest_fill = max(longest_fill, _slowest(server))
        row = Row(f"{case.name}, {level:,} waiting", table="Operations")
        size = len(message(str(uuid.UUID(int=1)), "model-00001"))
        row.figures["bytes"] = (server.memory() - base) / max(1, level - before) - size
        row.figures["filled"] = entered / seconds if entered else None
        row.figures["fill_longest"] = longest_fill / 1e3
        driver.client.clear()
        driver.time.clear()
        _cycles(driver, another, sizes["cycles"], row)
        row.figures["longest"] = _slowest(server) / 1e3
        for name, took in driver.time.items():
            row.figures[name] = quantile(took, 0.5)
            row.figures[f"{name}_p99"] = quantile(took, 0.99)
            row.figures[f"{name}_client"] = quantile(driver.client[name], 0.5)
        # As many as there are slots may be dispatched ahead.
        if abs(driver.waiting() - level) > 2 * driver.slots:
            row.violations.append(f"{driver.waiting()} jobs wait instead of {level}")
        yield row


def _batches(count: int) -> Iterator[int]:
    while count > 0:
        yield min(BATCH, count)
        count -= BATCH


def _slowest(server: RedisServer) -> float:
    """Return the longest script since the last call, in microseconds, and watch anew."""
    entries = server.client.slowlog_get(10_000)
    server.client.config_set("slowlog-log-slower-than", 200)
    server.client.config_set("slowlog-max-len", 10_000)
    server.client.slowlog_reset()
    return max(
        (
            float(entry["duration"])
            for entry in entries
            if entry["command"].upper().startswith(b"EVALSHA")
        ),
        default=0.0,
    )


def _cycles(driver: Driver, another: Callable[[], Job], cycles: int, row: Row) -> None:
    """Run jobs one after the other; each that ends is replaced by a new one."""
    ledger, running = driver.ledger, driver.running
    for cycle in range(cycles):
        while (found := driver.deliver()) is not None:
            driver.clocked("claim", ledger.claim, *found, uuid.uuid4().hex, WORKER)
            running.append(found)
        driver.clocked("finish", ledger.finish, *running.pop(0), "completed", {"result": "None"})
        driver.clocked("submit", ledger.submit, [another()])
        if cycle % 20 == 0:
            driver.clocked("tick", ledger.tick)
            driver.clocked("renew", ledger.renew, WORKER, [QUEUE], driver.slots, 0, running)
            driver.settle()
    _pause(driver, row)
    driver.settle()


def _pause(driver: Driver, row: Row) -> None:
    """Hold the queue and resume it: the wake goes on in ticks, none of which may take long."""
    ledger, resource = driver.ledger, f"queue:{QUEUE}"
    ledger.hold(resource, "bench")
    driver.clocked("resume", ledger.resume, resource, "bench")
    for ticks in range(10_000):
        if not ledger.redis.exists("coordinator:wakes"):
            row.figures["resume_ticks"] = ticks
            return
        driver.clocked("tick", ledger.tick)
    row.violations.append("a resume was not through after 10,000 ticks")


# -- fairness ------------------------------------------------------------------------------------------

#: Starts in a window over which an org's share is looked at.
WINDOW = 100


def _fairness(server: RedisServer, sizes: Sizes) -> Iterator[Row]:
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
        for batch in _batches(jobs):
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


def reference(row: str) -> str | None:
    found = re.match(r"models [\d,]+, ", row)
    return f"{found[0]}{SMALLEST:,} waiting" if found else None


#: Waiting jobs of the rows that the others are compared with.
SMALLEST = 1_000


def bars(sizes: Sizes) -> list[Bar]:
    most = max(sizes["levels"])
    found = []
    for models in sizes["models"]:
        row = f"models {models:,}, {most:,} waiting"
        found += [
            Bar(row, "finish", ratio=True, most=1.5),
            Bar(row, "bytes", most=700),
            Bar(row, "longest", most=5.0),
        ]
    return [
        *found,
        Bar("fairness, weights 1:1:1", "share_error", most=5.0),
        Bar("fairness, weights 1:2:5", "share_error", most=5.0),
        Bar("fairness, weights 1:1:1", "newcomer", most=4),
    ]


def _costs(name: str) -> tuple[Metric, ...]:
    return (
        Metric(name, f"{name} us", ratio=True),
        Metric(f"{name}_p99", "p99 us"),
        Metric(f"{name}_client", "client us"),
    )


WORKLOAD = Workload(
    "ledger",
    "Cost of the ledger's operations",
    "Scripts alone, one worker with 64 slots, all taken. Microseconds of server time per call at the "
    "median (from `INFO commandstats` around each call), and of the call from Python; ratio to 1,000 waiting "
    "jobs. Bytes: growth of `used_memory` per waiting job beyond its message. Longest script: from SLOWLOG "
    "during the cycles, a pause and a resume. Share error: percent of the starts by which an org is off its "
    "weight in the worst window of 100; newcomer: starts of others before a new org's first.",
    cases,
    (
        Metric("call", "call us", 1),
        Metric("call_client", "client us"),
        *_costs("submit"),
        *_costs("claim"),
        *_costs("finish"),
        Metric("tick", "tick us"),
        Metric("renew", "renew us"),
        Metric("resume", "resume us"),
        Metric("resume_ticks", "ticks after resume"),
        Metric("longest", "longest script ms", 2),
        Metric("fill_longest", f"longest submit of {BATCH} ms", 2),
        Metric("filled", "filled jobs/s"),
        Metric("bytes", "bytes beyond message"),
        Metric("share_error", "share error %", 1),
        Metric("newcomer", "newcomer waits for starts"),
        Metric("round", "starts of a round"),
    ),
    measure,
    {
        "models": (1, 100, 10_000),
        "levels": (SMALLEST, 100_000, 1_000_000),
        "cycles": 2_000,
        "slots": 64,
        "starts": 4_000,
        "fair_slots": 4,
    },
    {
        "models": (1, 100),
        "levels": (SMALLEST, 3_000),
        "cycles": 60,
        "slots": 16,
        "starts": 600,
        "fair_slots": 4,
    },
    runs=3,
    references=reference,
    bars=bars,
)

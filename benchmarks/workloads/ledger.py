"""The ledger alone: what each operation costs at which number of waiting jobs, beside bare Redis commands.

Drives the scripts as producers and workers do, without Celery. Server time is what the scripts added to
``INFO commandstats``, client time is the call from Python.
"""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.driver import BATCH, QUEUE, WORKER, Driver, message
from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.profiles import profiled
from benchmarks.servers import RedisServer
from benchmarks.turns import fairness
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.jobs import Job

_SIX = """
redis.call('HGET', KEYS[1], 'a')
redis.call('RPUSH', KEYS[2], 'x')
redis.call('LPOP', KEYS[2])
redis.call('SET', KEYS[3], 'v', 'PX', 60000)
redis.call('ZADD', KEYS[4], 1, 'm')
redis.call('INCR', KEYS[5])
return 1
"""


def cases(sizes: Sizes) -> list[Case]:
    found = [Case(f"models {n:,}", values={"models": n}) for n in sizes["models"]]
    return [Case("bare commands"), *found, Case("fairness")]


def measure(context: Context) -> list[Row]:
    def action() -> list[Row]:
        if context.case.values:
            return _levels(context.folder, context.case, context.sizes)
        with RedisServer(context.folder / "redis") as server:
            if context.case.name == "fairness":
                return list(fairness(server, context.sizes))
            return _bare(server, context.sizes["cycles"])

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


class _Level:
    """A ledger in which so many jobs wait, on a server of its own."""

    def __init__(self, server: RedisServer, case: Case, sizes: Sizes, level: int) -> None:
        self.server, self.level = server, level
        self.driver = Driver(server, sizes["slots"])
        self.row = Row(f"{case.name}, {level:,} waiting", table="Operations")
        self._models, self._numbers = case.values["models"], itertools.count()

    def another(self) -> Job:
        return self.driver.job(f"model-{next(self._numbers) % self._models:05d}")

    def fill(self) -> None:
        driver, figures = self.driver, self.row.figures
        # Now all slots are taken, or all models: what is submitted from here on waits.
        driver.ledger.submit([self.another() for _ in range(driver.slots)])
        driver.settle()
        _slowest(self.server)
        base, before = self.server.memory(), driver.waiting()
        began = time.perf_counter()
        entered = driver.fill(self.level, self.another)
        figures["filled"] = entered / (time.perf_counter() - began) if entered else None
        figures["fill_longest"] = _slowest(self.server) / 1e3
        size = len(message(str(uuid.UUID(int=1)), "model-00001"))
        grown = self.server.memory() - base
        figures["bytes"] = grown / max(1, self.level - before) - size

    def result(self) -> Row:
        row, driver = self.row, self.driver
        row.figures["longest"] = _slowest(self.server) / 1e3
        for name, took in driver.time.items():
            row.figures[name] = quantile(took, 0.5)
            row.figures[f"{name}_p99"] = quantile(took, 0.99)
            row.figures[f"{name}_client"] = quantile(driver.client[name], 0.5)
        # As many as there are slots may be dispatched ahead.
        if abs(driver.waiting() - self.level) > 2 * driver.slots:
            row.violations.append(f"{driver.waiting()} jobs wait instead of {self.level}")
        return row


def _levels(folder: Path, case: Case, sizes: Sizes) -> list[Row]:
    with ExitStack() as stack:
        levels = []
        for number in sizes["levels"]:
            server = stack.enter_context(RedisServer(folder / f"redis-{number}"))
            levels.append(_Level(server, case, sizes, number))
            levels[-1].fill()
        # In turn, a few cycles of each: a machine that slows down for a while slows all of them alike.
        for first in range(0, sizes["cycles"], TURN):
            for level in levels:
                _cycles(level, range(first, min(first + TURN, sizes["cycles"])))
        for level in levels:
            _pause(level.driver, level.row)
            level.driver.settle()
        return [level.result() for level in levels]


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


def _cycles(level: _Level, cycles: range) -> None:
    """Run jobs one after the other; each that ends is replaced by a new one."""
    driver, ledger, running = level.driver, level.driver.ledger, level.driver.running
    for cycle in cycles:
        while (found := driver.deliver()) is not None:
            driver.clocked("claim", ledger.claim, *found, uuid.uuid4().hex, WORKER)
            running.append(found)
        driver.clocked("finish", ledger.finish, *running.pop(0), "completed", {"result": "None"})
        driver.clocked("submit", ledger.submit, [level.another()])
        if cycle % 20 == 0:
            driver.clocked("tick", ledger.tick)
            driver.clocked("renew", ledger.renew, WORKER, [QUEUE], driver.slots, 0, running)
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


def reference(row: str) -> str | None:
    found = re.match(r"models [\d,]+, ", row)
    return f"{found[0]}{SMALLEST:,} waiting" if found else None


#: Cycles of one level before the next one has its turn.
TURN = 50

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
    "jobs; the levels have servers of their own and are measured in turn. Bytes: growth of `used_memory` per "
    "waiting job beyond its message. Longest script: from SLOWLOG during the cycles, a pause and a resume. "
    "Share error: percent of the starts by which an org is off its weight in the worst window of 100; "
    "newcomer: starts of others before a new org's first.",
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

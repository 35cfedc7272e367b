"""Live workers: what each costs Redis although nothing happens, for one Redis has to carry all of them."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.driver import LEASE_MS, QUEUE
from benchmarks.figures import Metric, Row
from benchmarks.servers import RedisServer
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.ledger import Ledger

#: Slots of each worker.
SLOTS = 8


def cases(sizes: Sizes) -> list[Case]:
    return [
        Case(f"{count:,} workers of {word}", None, {"workers": count, "apart": apart})
        for count in sizes["workers"]
        for apart, word in ((False, "the same queues"), (True, "queues of their own"))
    ]


def _report(number: int) -> dict[str, object]:
    """Return what a worker says of itself, about as long as in life."""
    node = f"worker-{number}@host-{number}.internal"
    counts = dict.fromkeys(("pulled", "refused", "fenced", "idle_seconds"), 0)
    return {"node": node, "host": f"host-{number}", "pid": number, "pool": "prefork", **counts}


def measure(context: Context) -> list[Row]:
    workers, apart = context.case.values["workers"], context.case.values["apart"]
    calls = context.sizes["calls"]
    row = Row(context.case.name)
    with RedisServer(context.folder) as server:
        ledger = Ledger(server.url)
        ledger.open(1)
        lease = str(LEASE_MS)
        ledger.configure({"model": "1", "lease_ms": lease, "claim_ms": lease})

        def renew(number: int, register: bool = False) -> None:
            number %= workers
            queues = [QUEUE, f"own-{number}"] if apart else [QUEUE]
            ledger.renew(f"w{number}", queues, SLOTS, report=_report(number), register=register)

        for number in range(workers):
            renew(number, register=True)
        for name, call in (("renew", renew), ("tick", lambda _: ledger.tick())):
            row.figures[name] = _cpu(server, call, calls)
        ledger.pool.disconnect()
    return [row]


def _cpu(server: RedisServer, call: Callable[[int], object], calls: int) -> float:
    """Return the microseconds of Redis's CPU that a call takes, everything included."""
    for number in range(calls // 10):
        call(number)
    before = server.cpu()
    for number in range(calls):
        call(number)
    return (server.cpu() - before) / calls * 1e6


WORKLOAD = Workload(
    "workers",
    "Cost of live workers",
    "Workers with nothing to do, each of 8 slots. Microseconds of Redis's CPU per renewal, which each worker makes "
    "once a second, and per tick, of which all workers together make some twenty a second, or each one in five "
    "seconds if that is more; reading the call and answering it included.",
    cases,
    (
        Metric("renew", "renew CPU us"),
        Metric("tick", "tick CPU us"),
    ),
    measure,
    {"workers": (1, 100, 1000), "calls": 5000},
    {"workers": (1, 20), "calls": 100},
)

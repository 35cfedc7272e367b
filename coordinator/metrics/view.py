"""What the ledger says at a scrape: four round trips, whatever the number of jobs that wait.

Nothing here scans the keys of Redis, of which a million jobs have some millions: what waits is found through the
classes, what runs through its workers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from coordinator.ledger import Ledger
from coordinator.resources import ORG, QUEUE, kind_of
from coordinator.states import RUNNING

_META = ("epoch", "run_id", "open", "drift", "verified", "full", "restored", "restorable")


@dataclass
class View:
    """The ledger at one moment.

    Attributes:
        now_ms: Redis's clock.
        meta: fields of the hash ``meta``.
        open: whether it is of this life of the server, and built.
        counts: jobs by (queue, state).
        holds: JSON of what is paused, by resource.
        memory: bytes that Redis uses, and may use (0 is no limit).
        backlog, oldest_event_ms: events that are not recorded.
        recorded: whether somebody is elected to record.
        awaited: workers that a restore waits for.
        workers: what each live worker told, with ``id`` and ``seen``.
        running: jobs that each of them runs.
        held: units of each resource in use.
        parked: waiting jobs by (queue, resource they wait for first).
        orgs: waiting jobs by the org's resource.
        silences: milliseconds since the last sign of life, of each running job.
        pools: slots and workers by the queues they consume.
    """

    now_ms: int
    meta: dict[str, str | None]
    open: bool
    memory: tuple[int, int]
    counts: dict[tuple[str, str], int]
    holds: dict[str, str]
    backlog: int
    oldest_event_ms: int | None
    recorded: bool
    awaited: int
    pools: dict[str, tuple[int, int]]
    workers: list[dict[str, Any]] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    parked: Counter[tuple[str, str]] = field(default_factory=Counter)
    orgs: Counter[str] = field(default_factory=Counter)
    silences: list[int] = field(default_factory=list)


def look(ledger: Ledger) -> View:
    """Read the ledger.

    Raises:
        LedgerUnavailable: Redis was not reached.
    """
    p, redis = ledger.prefix, ledger.redis
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.info("server")
    pipe.info("memory")
    pipe.hmget(f"{p}meta", *_META)
    for name in ("counts", "holds", "pools", "pool_workers"):
        pipe.hgetall(f"{p}{name}")
    pipe.smembers(f"{p}blocked")
    pipe.zrange(f"{p}workers", 0, -1)
    pipe.xlen(f"{p}events")
    pipe.xrange(f"{p}events", count=1)
    pipe.exists(f"{p}leader:recorder")
    pipe.scard(f"{p}awaited")
    (now, server, memory, meta, counts, holds, pools, members, blocked, workers, *rest) = (
        pipe.execute()
    )
    backlog, first, recorded, awaited = rest
    known = dict(zip(_META, meta, strict=True))
    view = View(
        now_ms=int(now[0]) * 1000 + int(now[1]) // 1000,
        meta=known,
        open=known["run_id"] == server["run_id"] and known["open"] != "building",
        memory=(int(memory["used_memory"]), int(memory.get("maxmemory") or 0)),
        counts=_counts(counts),
        holds=holds,
        backlog=backlog,
        oldest_event_ms=int(first[0][0].partition("-")[0]) if first else None,
        recorded=bool(recorded),
        awaited=awaited,
        pools={pool: (int(slots), int(members.get(pool, 0))) for pool, slots in pools.items()},
    )
    if known["epoch"] is not None:
        _look_closer(ledger, view, sorted(workers), sorted(blocked))
    return view


def _counts(raw: Mapping[str, str]) -> dict[tuple[str, str], int]:
    parts = ((name.rpartition("|"), int(number)) for name, number in raw.items())
    return {(queue, state): number for (queue, _, state), number in parts if number}


class _Round:
    """Reads of one round trip, each with what is done with its answer."""

    def __init__(self, ledger: Ledger) -> None:
        self._pipe = ledger.redis.pipeline(transaction=False)
        self._then: list[Callable[[Any], None]] = []

    def ask(self, then: Callable[[Any], None], command: str, *arguments: Any) -> None:
        getattr(self._pipe, command)(*arguments)
        self._then.append(then)

    def run(self) -> None:
        answers = self._pipe.execute() if self._then else ()
        for then, answer in zip(self._then, answers, strict=True):
            then(answer)


def _look_closer(ledger: Ledger, view: View, workers: list[str], blocked: list[str]) -> None:
    """Read what workers have, what is dispatched, and the classes that wait."""
    p, busy = ledger.prefix, list[str]()
    lanes, classes = list[tuple[str, str]](), list[tuple[str, str]]()
    first, second, third = _Round(ledger), _Round(ledger), _Round(ledger)
    for worker in workers:
        first.ask(partial(_told, view, worker), "hgetall", f"{p}worker:{worker}")
        first.ask(busy.extend, "smembers", f"{p}worker:{worker}:jobs")
    for queue in sorted({queue for (queue, state) in view.counts if state == "dispatched"}):
        first.ask(busy.extend, "zrange", f"{p}dispatched:{queue}", 0, -1)
    for resource in blocked:
        first.ask(partial(_paired, lanes, resource), "zrange", f"{p}lanes:{resource}", 0, -1)
    first.run()
    for job_id in busy:
        fields = ("state", "held", "started", "progressed", "worker")
        second.ask(partial(_busy, view), "hmget", f"{p}job:{job_id}", fields)
    for resource, lane in lanes:
        key = f"{p}parked:{resource}|{lane}"
        second.ask(partial(_paired, classes, resource), "zrange", key, 0, -1)
    second.run()
    sizes: list[int] = []
    for _, name in classes:
        third.ask(sizes.append, "zcard", f"{p}class:{name}")
    needs: list[str | None] = []
    for _, name in classes:
        third.ask(needs.append, "hget", f"{p}needs:{name}", "needs")
    third.run()
    for (resource, _), number, text in zip(classes, sizes, needs, strict=True):
        _waiting(view, resource, number, (text or "").split())


def _told(view: View, worker: str, fields: dict[str, str]) -> None:
    # Empty is one that went since it was listed.
    if fields:
        report = json.loads(fields.pop("report", "{}"))
        view.workers.append({"id": worker, **fields, **report})


def _paired(pairs: list[tuple[str, str]], resource: str, names: list[str]) -> None:
    pairs += [(resource, name) for name in names]


def _busy(view: View, fields: list[str | None]) -> None:
    state, held, started, progressed, worker = fields
    view.held.update((held or "").split())
    if state in RUNNING and worker:
        view.running[worker] += 1
    if state == "running" and started:
        view.silences.append(view.now_ms - max(int(started), int(progressed or 0)))


def _waiting(view: View, resource: str, number: int, needs: list[str]) -> None:
    # Without needs the class went, with its last job, since it was listed.
    if not number or not needs:
        return
    queue = next((need for need in needs if kind_of(need) == QUEUE), "")
    view.parked[queue.partition(":")[2], resource] += number
    for need in needs:
        if kind_of(need) == ORG:
            view.orgs[need] += number

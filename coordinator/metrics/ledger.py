"""What the ledger says at a scrape, as metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from coordinator.metrics.definitions import MOST_MODELS, STALLED_SECONDS, STUCK_SECONDS
from coordinator.metrics.sheet import Sheet
from coordinator.metrics.view import View
from coordinator.operations.holds import hold_of
from coordinator.resources import (
    INTEGRATION,
    MODEL,
    ORG,
    QUEUE,
    SERIAL,
    SERIAL_RESOURCE,
    kind_of,
    queue_resource,
)
from coordinator.states import RUNNING

_KINDS = (MODEL, ORG, QUEUE, INTEGRATION, SERIAL)
_SOURCES = ("operator", "configuration", "panic")


def fill(sheet: Sheet, view: View, queues: Iterable[str], limits: Mapping[str, int | None]) -> None:
    """Enter what was read.

    Args:
        sheet: where.
        view: what.
        queues: all that are managed, so that one without jobs is shown with zeros.
        limits: by resource, of queues and of the orgs of ``org_resources``.
    """
    names = sorted({*queues, *(queue for queue, _ in view.counts)})
    _fill_queues(sheet, view, names, limits)
    _fill_shared(sheet, view, limits)
    _fill_workers(sheet, view)
    _fill_recovery(sheet, view)


def org_resources(view: View) -> list[str]:
    """Return the orgs that have jobs, as resources."""
    return sorted({*view.orgs, *(one for one in view.held if kind_of(one) == ORG)})


def _fill_queues(
    sheet: Sheet, view: View, names: list[str], limits: Mapping[str, int | None]
) -> None:
    for name in names:
        for metric, states in (
            ("waiting", ("waiting",)),
            ("delayed", ("delayed",)),
            ("dispatched", ("dispatched",)),
            ("active", RUNNING),
        ):
            number = sum(view.counts.get((name, state), 0) for state in states)
            sheet.set(f"queue_{metric}_jobs", number, name)
        limit = limits.get(queue_resource(name))
        if limit is not None:
            sheet.set("queue_limit_jobs", limit, name)
        consumers = [numbers for pool, numbers in view.pools.items() if name in pool.split()]
        sheet.set("queue_slots", sum(slots for slots, _ in consumers), name)
        sheet.set("queue_workers", sum(workers for _, workers in consumers), name)
        for kind in _KINDS:
            sheet.set("queue_blocked_jobs", 0, name, kind)
        paused = {
            hold_of(key, json.loads(view.holds[key])).source
            for key in (queue_resource(name), SERIAL_RESOURCE)
            if key in view.holds
        }
        for source in _SOURCES:
            sheet.set("queue_paused", source in paused, name, source)
    for (queue, resource), number in view.parked.items():
        sheet.add("queue_blocked_jobs", number, queue, kind_of(resource))


def _fill_shared(sheet: Sheet, view: View, limits: Mapping[str, int | None]) -> None:
    waited: Counter[str] = Counter()
    for (_, resource), number in view.parked.items():
        waited[resource] += number
    for kind in _KINDS:
        for state, names in (("held", view.held), ("waited", waited), ("paused", view.holds)):
            number = sum(kind_of(name) == kind for name in names)
            sheet.set("coordinator_resources", number, kind, state)
    models = [name for name in {*waited, *view.held} if kind_of(name) == MODEL]
    models.sort(key=lambda name: (-waited[name], -view.held[name], name))
    for resource in models[:MOST_MODELS]:
        name = resource.partition(":")[2]
        sheet.set("model_waiting_jobs", waited[resource], name)
        sheet.set("model_active_jobs", view.held[resource], name)
    for resource in org_resources(view):
        queue, _, org = resource.partition(":")[2].partition("/")
        sheet.set("org_active_jobs", view.held[resource], queue, org)
        sheet.set("org_waiting_jobs", view.orgs[resource], queue, org)
        limit = limits.get(resource)
        if limit is not None:
            sheet.set("org_limit_jobs", limit, queue, org)


def _fill_workers(sheet: Sheet, view: View) -> None:
    states = dict.fromkeys(("active", "draining", "idle", "leaving"), 0)
    stalled = 0
    for worker in view.workers:
        state = next(
            (
                name
                for name, told in (
                    ("leaving", worker.get("leaving")),
                    ("draining", worker.get("draining")),
                    ("idle", worker.get("idle_seconds")),
                )
                if told
            ),
            "active",
        )
        states[state] += 1
        node = str(worker.get("node") or worker["id"].partition("/")[0])
        silent_ms = max(0, view.now_ms - int(worker.get("seen") or 0))
        jobs = view.running[worker["id"]]
        if silent_ms > STALLED_SECONDS * 1000:
            stalled += jobs
        sheet.add("coordinator_worker_slots", int(worker.get("slots") or 0), node)
        sheet.add("coordinator_worker_active_jobs", jobs, node)
        sheet.set("coordinator_worker_heartbeat_age_seconds", silent_ms / 1000, node)
        sheet.set("coordinator_worker_idle_seconds", int(worker.get("idle_seconds") or 0), node)
    for state, number in states.items():
        sheet.set("coordinator_workers", number, state)
    stuck = sum(silence >= STUCK_SECONDS * 1000 for silence in view.silences)
    sheet.set("coordinator_stuck_jobs", stuck)
    sheet.set("coordinator_stalled_jobs", stalled)


def _fill_recovery(sheet: Sheet, view: View) -> None:
    meta = view.meta
    lag = 0 if view.oldest_event_ms is None else max(0, view.now_ms - view.oldest_event_ms)
    sheet.set("coordinator_recorder_lag_seconds", lag / 1000)
    sheet.set("coordinator_recorder_backlog_events", view.backlog)
    sheet.set("coordinator_recorder_elected", view.recorded)
    if meta["verified"] is not None:
        sheet.set("coordinator_drift", int(meta["drift"] or 0))
        sheet.set("coordinator_verified_timestamp_seconds", int(meta["verified"]) / 1000)
    sheet.set("coordinator_epoch", int(meta["epoch"] or 0))
    sheet.set("coordinator_restoring", not view.open or meta["open"] == "0")
    sheet.set("coordinator_restore_jobs", int(meta["restored"] or 0), "entered")
    sheet.set("coordinator_restore_jobs", int(meta["restorable"] or 0), "all")
    sheet.set("coordinator_restore_awaited_workers", view.awaited)
    used, allowed = view.memory
    sheet.set("coordinator_redis_memory_bytes", used)
    sheet.set("coordinator_redis_memory_limit_bytes", allowed)
    full = json.loads(meta["full"]) if meta["full"] else {}
    sheet.set("coordinator_refusing_jobs", int(full.get("until_ms") or 0) > view.now_ms)

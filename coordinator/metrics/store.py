"""What the store says at a scrape: its totals, which never fall, and its conditions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from coordinator.metrics.sheet import Sheet
from coordinator.populator import SILENT_SECONDS
from coordinator.states import Verb
from coordinator.store import measures

if TYPE_CHECKING:
    from coordinator.store import Store

_BOUNDS = tuple(bound / 1000 for bound in measures.BOUNDS_MS)
_INDEX = {label: index for index, label in enumerate(measures.BUCKETS)}

_HISTOGRAMS = {
    measures.WAIT: "queue_wait_time_seconds",
    measures.RUN: "queue_processing_time_seconds",
    measures.LOCK_WAIT: "queue_lock_wait_seconds",
    measures.LOCK_HOLD: "queue_lock_hold_seconds",
    measures.HANDOFF: "queue_handoff_seconds",
}
_ORGS = {
    measures.ORG_STARTED: ("org_started_total", 1),
    measures.ORG_COMPLETED: ("org_completed_total", 1),
    measures.ORG_FAILED: ("org_failed_total", 1),
    measures.ORG_WAITED: ("org_wait_seconds_total", 1000),
}
_WORKER_EVENTS = ("worker_joined", "worker_left", "worker_expired")
_BREAKER_STATES = ("closed", "open", "half_open")
_JOB_EVENTS = frozenset(verb.value for verb in Verb)
_ALERT_LEVELS = ("warning", "critical")


def fill(sheet: Sheet, store: Store, queues: Iterable[str], populator: bool) -> None:
    """Enter what the store knows.

    Args:
        sheet: where.
        store: what is asked.
        queues: all that are managed.
        populator: whether there is one.

    Raises:
        StoreUnavailable: not now; the sheet may be filled in part.
    """
    _fill_totals(sheet, store)
    _fill_measures(sheet, store, queues)
    for name, breaker in store.conditions("breaker").items():
        for state in _BREAKER_STATES:
            sheet.set("coordinator_panic_state", breaker.state == state, name, state)
    for name, alert in store.conditions("alert").items():
        if alert.state in _ALERT_LEVELS:
            kind, _, scope = name.partition(":")
            sheet.set("coordinator_alert", 1, kind, scope, alert.state)
    if populator:
        _fill_populator(sheet, store)
    for queue in queues:
        age = store.oldest_pending_age(queue)
        sheet.set("queue_oldest_job_age_seconds", age or 0, queue)
    epochs, poison = store.schema.epochs.c, store.schema.poison
    with store.reading() as connection:
        opened = connection.scalar(sa.select(epochs.opened_at))
        aside = connection.scalar(sa.select(sa.func.count()).select_from(poison))
    if opened is not None:
        sheet.set("coordinator_restored_timestamp_seconds", opened / 1000)
    sheet.set("coordinator_set_aside_events", aside or 0)


def _fill_totals(sheet: Sheet, store: Store) -> None:
    totals = store.totals()
    for event in _WORKER_EVENTS:
        sheet.set("coordinator_worker_events_total", 0, event)
    sheet.set("coordinator_refused_finishes_total", 0)
    for (name, queue, task), value in totals.items():
        if name in _WORKER_EVENTS:
            sheet.add("coordinator_worker_events_total", value, name)
        elif name in _JOB_EVENTS and queue:
            sheet.add("queue_events_total", value, queue, task, name)
        if name == Verb.REFUSED:
            sheet.add("coordinator_refused_finishes_total", value)
        if name == Verb.STARTED and queue:
            # From a task's first run on both are there: the first failure must not look like the beginning.
            sheet.add("queue_completed_total", 0, queue, task)
            sheet.add("queue_failed_total", 0, queue, task)
        if name == Verb.COMPLETED and queue:
            sheet.add("queue_completed_total", value, queue, task)
        elif name in (Verb.FAILED, Verb.UNPROCESSABLE) and queue:
            sheet.add("queue_failed_total", value, queue, task)


def _fill_measures(sheet: Sheet, store: Store, queues: Iterable[str]) -> None:
    spreads: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    refused = fenced = 0
    for queue in queues:
        for name in _HISTOGRAMS:
            sums[name, queue] = 0
    for (name, queue, label), value in store.measures().items():
        if name in _HISTOGRAMS:
            if label == measures.SUM:
                sums[name, queue] = value
            elif label in _INDEX:
                spreads[name, queue][_INDEX[label]] = value
        elif name in _ORGS:
            metric, unit = _ORGS[name]
            sheet.set(metric, value / unit, queue, label)
        elif name == measures.BLOCKED:
            sheet.set("queue_blocked_total", value, queue, label)
        elif name == measures.REFUSED_CLAIMS:
            refused += value
        elif name == measures.FENCED:
            fenced += value
    for (name, queue), total in sums.items():
        sheet.spread(_HISTOGRAMS[name], _BOUNDS, spreads[name, queue], total / 1000, queue)
    sheet.set("coordinator_duplicate_deliveries_total", refused)
    sheet.set("coordinator_self_fencing_total", fenced)


def _fill_populator(sheet: Sheet, store: Store) -> None:
    last = store.conditions("populator").get("last")
    data: Mapping[str, Any] = last.data if last else {"at": 0.0, "error": "", "minutes": []}
    now = time.time()
    healthy = not data["error"] and now - data["at"] <= SILENT_SECONDS
    added = sum(number for minute, number in data["minutes"] if minute > now - 3600)
    sheet.set("coordinator_populator_healthy", healthy)
    sheet.set("coordinator_populator_round_timestamp_seconds", data["at"])
    sheet.set("coordinator_populator_added_jobs", added)

"""Metrics for Prometheus, worked out at each scrape from ledger and store.

No process has counters: pool processes come and go, and what they had counted would go with them. Totals are rows
of the database, written in the transaction that records what they count, so they never fall.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coordinator.errors import LedgerClosed, LedgerUnavailable, StoreUnavailable
from coordinator.metrics import ledger, store
from coordinator.metrics.definitions import METRICS, Metric, table
from coordinator.metrics.sheet import Sheet
from coordinator.metrics.view import look
from coordinator.recovery.roster import versions
from coordinator.resources import queue_resource

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

__all__ = ["CONTENT_TYPE", "METRICS", "Metric", "scrape", "table"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def scrape(work_queue: WorkQueue) -> bytes:
    """Return all metrics of an installation in Prometheus's text format.

    When Redis or the database is away, its metrics are left out and ``coordinator_up`` says which: a scrape that
    failed as a whole would hide the other half just then.
    """
    began = time.perf_counter()
    sheet = Sheet()
    queues = sorted(_queues(work_queue))
    for part, fill in (("redis", _fill_ledger), ("database", _fill_store)):
        try:
            fill(sheet, work_queue, queues)
        except (LedgerUnavailable, LedgerClosed, StoreUnavailable):
            sheet.set("coordinator_up", 0, part)
        else:
            sheet.set("coordinator_up", 1, part)
    sheet.set("coordinator_info", 1, versions().get("celery-coordinator", "unknown"))
    sheet.set("coordinator_scrape_seconds", time.perf_counter() - began)
    return sheet.text()


def _queues(work_queue: WorkQueue) -> set[str]:
    # Without Redis: those that workers of other apps consume are in the ledger's counts, when it can be asked.
    application = work_queue.application
    declared = application.queues() if application is not None else ()
    return {*work_queue.settings.queues, *declared}


def _fill_ledger(sheet: Sheet, work_queue: WorkQueue, queues: list[str]) -> None:
    sheet.set("coordinator_up", 0, "ledger")
    view = look(work_queue.ledger)
    sheet.set("coordinator_up", view.open, "ledger")
    names = {*queues, *(queue for queue, _ in view.counts)}
    wanted = [*map(queue_resource, sorted(names)), *ledger.org_resources(view)]
    limits = work_queue.ledger.limits(wanted)
    ledger.fill(sheet, view, queues, {name: limit.value for name, limit in limits.items()})


def _fill_store(sheet: Sheet, work_queue: WorkQueue, queues: list[str]) -> None:
    store.fill(sheet, work_queue.store, queues, bool(work_queue.settings.populator))

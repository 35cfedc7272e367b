"""The page of what happened over time: throughput, wait and run times, the slowest jobs, the errors."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.errors import InvalidValue
from coordinator.operations.failures import ErrorPattern
from coordinator.operations.rates import SlowJob, Throughput
from coordinator.web.pages.charts import Series, lines, spread, stacked
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import recent, show
from coordinator.web.pages.words import clock, exact, number, span
from coordinator.web.visits import Viewing, blocking

router = APIRouter(route_class=Paged)

#: How far to look back, the length of a stretch, and for how long pages share an answer, in seconds.
SPANS: Mapping[str, tuple[int, int, int]] = {
    "1h": (3600, 120, 10),
    "6h": (6 * 3600, 600, 30),
    "24h": (86_400, 1800, 60),
    "7d": (7 * 86_400, 4 * 3600, 300),
}

#: Rows of the tables; seconds between two looks: nothing here changes faster.
ROWS, REFRESH = 10, 15


@router.get("/trends")
@blocking
def trends(request: Request, visit: Viewing) -> Response:
    """Show charts of a while, of one queue or all."""
    work_queue = visit.queue
    asked, queue = request.query_params.get("span") or "1h", request.query_params.get("queue")
    if asked not in SPANS:
        raise InvalidValue("span", asked, "one of " + ", ".join(SPANS), SPANS)
    seconds, bucket, shared = SPANS[asked]
    chosen = work_queue.check_queue(queue) if queue else None

    def read() -> tuple[Throughput, list[SlowJob], list[ErrorPattern]]:
        since_ms = int((time.time() - seconds) * 1000)
        return (
            work_queue.get_throughput(seconds, bucket, chosen),
            work_queue.get_slow_jobs(ROWS, seconds, chosen),
            work_queue.get_error_patterns(ROWS, since_ms=since_ms, queue=chosen),
        )

    told, slow, errors = recent(request).get(shared, read, "trends", asked, chosen)
    return show(
        visit,
        request,
        "trends.html",
        spans=tuple(SPANS),
        span=asked,
        queue=chosen,
        queues=sorted(work_queue.known_queues()),
        rates=told,
        ended=_ended(told),
        times=_times(told),
        labels=spread([clock(bucket.at) for bucket in told.buckets]),
        days=seconds > 86_400,
        slow=slow,
        errors=errors,
        refresh=REFRESH,
    )


def _ended(told: Throughput) -> object:
    titles = [
        f"{exact(one.at)}: {number(one.completed)} completed, {number(one.failed)} failed"
        for one in told.buckets
    ]
    return stacked(
        [
            Series("completed", [one.completed for one in told.buckets], titles),
            Series("failed", [one.failed for one in told.buckets], titles),
        ]
    )


def _times(told: Throughput) -> object:
    def series(kind: str, values: list[float | None]) -> Series:
        titles = [
            f"{exact(one.at)}: {kind} {span(value)} on average"
            for one, value in zip(told.buckets, values, strict=True)
        ]
        return Series(kind, values, titles)

    return lines(
        [
            series("wait", [one.wait_seconds for one in told.buckets]),
            series("run", [one.run_seconds for one in told.buckets]),
        ]
    )

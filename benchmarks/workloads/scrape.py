"""Scrape: what one scrape of the metrics costs, at which number of jobs in ledger and database."""

from __future__ import annotations

import itertools
import re
import time

import sqlalchemy as sa

from benchmarks.driver import QUEUE, Driver
from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.servers import RedisServer
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.jobs import Job
from coordinator.metrics import scrape
from coordinator.settings import Settings
from coordinator.states import Verb
from coordinator.store import Store
from coordinator.store.measures import BUCKETS, PREFIX, SUM
from coordinator.work_queue import WorkQueue

#: Everything that a real row has: what a query reads depends on the width of the rows it passes.
_ROWS = """
INSERT INTO coordinator_jobs (
  job_id, task, queue, model, required_models, needs, org, priority, sequence, state, message, args_repr,
  kwargs_repr, queued_at, dispatched_at, started_at, finished_at, attempts, max_retries, worker, token, result)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last)
SELECT 'row-' || i, 'work', :queue, 'model-' || (i % :models), '["m"]', '["m"]', 'org-' || (i % :orgs), 5,
  (:now - i) * 1000, CASE WHEN i % 2 THEN 'waiting' ELSE 'completed' END, :message, '(1)', '{}', :now - i,
  CASE WHEN i % 2 THEN NULL ELSE :now - i END, CASE WHEN i % 2 THEN NULL ELSE :now - i END,
  CASE WHEN i % 2 THEN NULL ELSE :now - i END, 1, 3, 'w', i, '1' FROM n
"""


def cases(sizes: Sizes) -> list[Case]:
    return [Case(f"{level:,} jobs", values={"jobs": level}) for level in sizes["jobs"]]


def measure(context: Context) -> list[Row]:
    sizes, level, row = context.sizes, context.case.values["jobs"], Row(context.case.name)
    models, orgs, numbers = sizes["models"], sizes["orgs"], itertools.count()
    database = context.folder / "store.db"
    with RedisServer(context.folder / "redis") as server:
        work_queue = WorkQueue(
            Settings(
                redis_url=server.url,
                database_url=f"sqlite:///{database}",
                data_dir=context.folder,
            )
        )
        driver = Driver(server, sizes["slots"])

        def another() -> Job:
            number = next(numbers)
            return driver.job(f"model-{number % models}", f"org-{number % orgs}")

        driver.fill(level, another)
        _fill_store(work_queue.store, level, models, orgs, sizes)
        took, used, server_used = [], [], []
        for _ in range(sizes["scrapes"]):
            began, cpu, redis_cpu = time.perf_counter(), time.process_time(), server.cpu()
            text = scrape(work_queue)
            took.append((time.perf_counter() - began) * 1e3)
            used.append((time.process_time() - cpu) * 1e3)
            server_used.append((server.cpu() - redis_cpu) * 1e3)
        told = re.search(
            rf'^queue_waiting_jobs{{queue="{QUEUE}"}} (\S+)$', text.decode(), re.MULTILINE
        )
        if told is None or float(told[1]) != driver.waiting():
            row.violations.append("the scrape does not tell the jobs that wait")
        row.figures |= {
            "scrape": quantile(took, 0.5),
            "slowest": max(took),
            "cpu": quantile(used, 0.5),
            "redis": sum(server_used) / len(server_used),
            "samples": text.count(b"\n") - text.count(b"\n#") - 1,
        }
        driver.ledger.pool.disconnect()
        work_queue.ledger.pool.disconnect()
        work_queue.store.close()
    return [row]


def _fill_store(store: Store, level: int, models: int, orgs: int, sizes: Sizes) -> None:
    now = time.time_ns() // 1_000_000
    given = {"last": level - 1, "queue": QUEUE, "models": models, "orgs": orgs, "now": now}
    totals = [
        {"name": name, "queue": f"q{queue}", "label": label, "value": 1}
        for queue in range(sizes["queues"])
        for name, labels in (
            *((verb.value, [f"task-{task}" for task in range(sizes["tasks"])]) for verb in Verb),
            *((f"{PREFIX}{name}", (*BUCKETS, SUM)) for name in ("wait", "run", "handoff")),
            *((f"{PREFIX}org_{name}", [f"org-{n}" for n in range(orgs)]) for name in ("started",)),
        )
        for label in labels
    ]
    with store.writing() as connection:
        connection.execute(sa.text(_ROWS), given | {"message": "x" * 900})
        connection.execute(sa.insert(store.schema.totals), totals)


def bars(sizes: Sizes) -> list[Bar]:
    return [Bar(f"{max(sizes['jobs']):,} jobs", "scrape", most=200)]


WORKLOAD = Workload(
    "scrape",
    "A scrape of the metrics",
    "So many jobs wait in the ledger, of 1,000 models and 100 orgs, and as many rows are in the database (SQLite), "
    "half of them finished; 8 queues, 20 tasks. Time of one scrape, CPU of the scraping process and of Redis.",
    cases,
    (
        Metric("scrape", "ms", 1),
        Metric("slowest", "slowest ms", 1),
        Metric("cpu", "CPU ms", 1),
        Metric("redis", "Redis CPU ms", 1),
        Metric("samples", "samples"),
    ),
    measure,
    {
        "jobs": (10_000, 1_000_000),
        "models": 1000,
        "orgs": 100,
        "queues": 8,
        "tasks": 20,
        "slots": 100,
        "scrapes": 20,
    },
    {
        "jobs": (200,),
        "models": 20,
        "orgs": 5,
        "queues": 2,
        "tasks": 2,
        "slots": 10,
        "scrapes": 3,
    },
    runs=1,
    references=lambda _: None,
    bars=bars,
)

"""The console's pages with many jobs in the store, most of them ended and many waiting."""

from __future__ import annotations

import statistics
import time
import uuid

from celery import Celery
from fastapi.testclient import TestClient

from benchmarks.driver import message
from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.servers import RedisServer
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator import coordinate
from coordinator.jobs import Job
from coordinator.resources import needs_of
from coordinator.store import Store
from coordinator.web.accounts import Accounts
from coordinator.web.application import create
from coordinator.web.pages import trends
from coordinator.web.pages.frame import REFRESH
from coordinator.web.pages.recent import Recent

#: Milliseconds that a page may take at the median.
MOST_MS = 300.0

QUEUES, MODELS, ORGS = ("selfplay", "training", "evaluation"), 60, 12
WORKER, SLOTS = "worker@here/here/1/1", 20
USER, PASSWORD = "bench", "a password for benchmarks"

#: First word of the rows.
PAGE = "page"

PAGES = {
    "operations": "",
    "jobs": "jobs",
    "jobs pending": "jobs?status=PENDING",
    "jobs processing": "jobs?status=PROCESSING",
    "jobs failed": "jobs?status=FAILED",
    "jobs of a queue": "jobs?queue=training",
    "jobs of a model": "jobs?model=model-7",
    "jobs of an org, completed": "jobs?org=org-3&status=COMPLETED",
    "jobs with a text": "jobs?text=42%2C+0.5",
    "jobs with a text of none": "jobs?text=nowhere-to-be-found",
    "a job that waits": "job?id={waiting}",
    "a job that ended": "job?id={ended}",
    "trends 1h": "trends",
    "trends 24h": "trends?span=24h",
    "models": "models",
    "audit": "audit",
    "audit of an event": "audit?event=failed",
}

#: Ended over the last day, one in twenty failed; ``n`` is the number of the row.
_JOBS = """
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows})
INSERT INTO coordinator_jobs (job_id, task, queue, model, required_models, needs, org, priority, sequence,
  state, message, args_repr, kwargs_repr, queued_at, started_at, finished_at, attempts, max_retries, worker, error)
SELECT printf('ended-%06d', n), 'tasks.play', substr('selfplay  training  evaluation', 1 + 10 * (n % 3), 10),
  'model-' || (n % {models}), '["model-' || (n % {models}) || '"]', '[]', 'org-' || (n % {orgs}), 5,
  ({now} - n * {step} - 9000) * 1000, CASE n % 20 WHEN 0 THEN 'failed' ELSE 'completed' END, '{{"body":"W10="',
  '(' || n || ', 0.5)', '{{}}', {now} - n * {step} - 9000, {now} - n * {step} - 3000, {now} - n * {step}, 1, 3,
  'worker@here/here/1/1', CASE n % 20 WHEN 0 THEN 'ValueError: no space left for ' || n END
FROM numbers
"""

_EVENTS = """
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < 3 * {rows})
INSERT INTO coordinator_events (epoch, event_id, ordinal, version, job_id, task, queue, event_type, at, data)
SELECT 1, at || '-' || n, at * 1048576, 1, printf('ended-%06d', n / 3), 'tasks.play', 'selfplay',
  CASE n % 3 WHEN 0 THEN 'submitted' WHEN 1 THEN 'started' ELSE CASE n / 3 % 20 WHEN 0 THEN 'failed' ELSE 'completed'
  END END, at, '{{}}'
FROM (SELECT n, {now} - n / 3 * {step} - 6000 + n % 3 * 3000 AS at FROM numbers)
"""


def cases(_: Sizes) -> list[Case]:
    return [Case(PAGE)]


def _fill(store: Store, ended: int, waiting: int) -> str:
    now = time.time_ns() // 1_000_000
    values = {"rows": ended, "now": now, "models": MODELS, "orgs": ORGS}
    values["step"] = max(1, 86_400_000 // ended)
    with store.writing() as connection:
        for statement in (_JOBS, _EVENTS):
            connection.exec_driver_sql(statement.format(**values))
        connection.exec_driver_sql("UPDATE coordinator_jobs SET queue = trim(queue)")
    batch = []
    for number in range(waiting):
        job_id, model = str(uuid.UUID(int=number, version=4)), f"model-{number % MODELS}"
        queue, org = QUEUES[number % len(QUEUES)], f"org-{number % ORGS}"
        needs = needs_of(queue, [model], org)
        body = message(job_id, model)
        batch.append(Job(job_id, "tasks.play", queue, needs, body, org=org, submitted_ms=now))
    for start in range(0, len(batch), 2000):
        store.insert(batch[start : start + 2000])
    return batch[-1].job_id


def measure(context: Context) -> list[Row]:
    sizes, rows = context.sizes, []
    with RedisServer(context.folder / "redis") as server:
        app = Celery("bench")
        app.conf.update(
            coordinator_redis_url=server.url,
            coordinator_data_dir=str(context.folder),
            task_queues={name: {} for name in QUEUES},
        )
        coordinate(app)
        work_queue = app.coordination.work_queue
        store = work_queue.store
        waiting = _fill(store, sizes["jobs"] - sizes["waiting"], sizes["waiting"])
        work_queue.wait_until_open()
        work_queue.ledger.renew(WORKER, QUEUES, SLOTS, register=True)
        work_queue.catch_up()
        Accounts(store).add_user(USER, PASSWORD, "operator", by="benchmark")
        site = create(work_queue, app)
        recent: Recent = site.state.recent
        with TestClient(site, base_url="http://testserver/console/") as client:
            client.post("login", data={"user": USER, "password": PASSWORD})
            for name, path in PAGES.items():
                asked = path.format(waiting=waiting, ended="ended-000042")
                rows.append(_row(client, recent, name, asked, sizes))
        work_queue.ledger.pool.disconnect()
        store.close()
    return rows


def _row(client: TestClient, recent: Recent, name: str, path: str, sizes: Sizes) -> Row:
    row, took, used, size = Row(f"{PAGE} {name}"), [], [], 0
    every = trends.REFRESH if path.startswith("trends") else REFRESH
    moment = 0.0
    recent.clock = lambda: moment
    recent.forget()
    for _ in range(sizes["looks"]):
        moment += every
        began, cpu = time.perf_counter(), time.process_time()
        answer = client.get(path)
        took.append((time.perf_counter() - began) * 1000)
        used.append((time.process_time() - cpu) * 1000)
        size = len(answer.content)
        if answer.status_code != 200 or "Log out" not in answer.text:
            row.violations.append(f"{path} was answered {answer.status_code}")
            break
    row.figures = {
        "median": statistics.median(took),
        "cpu": statistics.median(used),
        "p95": quantile(took, 0.95),
        "kib": size / 1024,
    }
    return row


WORKLOAD = Workload(
    "console",
    "Pages of the console",
    "The store (SQLite) has 100,000 jobs of a day, three entries of the log each; 10,000 wait for 20 slots. "
    "Milliseconds for a page as an operator sees it, from the request to its last byte, in one process, who looks "
    "every few seconds, as the page does, and alone: nothing is shared with others. CPU is of that process, Redis "
    "not counted.",
    cases,
    (
        Metric("median", "median ms", 1),
        Metric("p95", "95 % ms", 1),
        Metric("cpu", "CPU ms", 1),
        Metric("kib", "KiB"),
    ),
    measure,
    {"jobs": 100_000, "waiting": 10_000, "looks": 20},
    {"jobs": 400, "waiting": 100, "looks": 2},
    runs=3,
    bars=lambda _: [Bar(f"{PAGE} {name}", "median", most=MOST_MS) for name in PAGES],
)

"""How the database finds what is listed, with as many rows as asked: ``python -m tests.plans --rows 1000000``.

Exits with 1 when a listing goes through all jobs or all events.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import click

from coordinator.store import Store
from tests.test_store import NOW, listings, plans, reads_whole_table

#: As after a long time: most jobs have ended, some wait; ``n`` is the number of the row.
_JOBS = """
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows})
INSERT INTO coordinator_jobs (job_id, task, queue, model, required_models, needs, org, priority, sequence,
  state, message, args_repr, kwargs_repr, queued_at, finished_at, due_at, retries, max_retries, worker, token)
SELECT printf('j%05d', n), 'tasks.play', 'q' || (n % 4), 'm' || (n % 40), '[]', '[]', 'o' || (n % 30), 5,
  {now} * 1000 + n, state, '{{"body":"W10="', '()', '{{}}', {now} + n,
  CASE WHEN state IN ('completed', 'failed', 'canceled') THEN {now} + n END,
  CASE WHEN state = 'delayed' THEN {now} END, n % 50 = 0, 3, 'w' || (n % 8), n
FROM (SELECT n, CASE WHEN n % 200 < 190 THEN 'completed' WHEN n % 200 < 193 THEN 'failed'
  WHEN n % 200 < 197 THEN 'waiting' WHEN n % 200 = 197 THEN 'running' WHEN n % 200 = 198 THEN 'canceled'
  ELSE 'delayed' END AS state FROM numbers)
"""

_EVENTS = """
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows})
INSERT INTO coordinator_events (epoch, event_id, ordinal, version, job_id, task, queue, event_type, at, data)
SELECT 1, ({now} + n / 7) || '-' || (n % 7), ({now} + n / 7) * 1048576 + n % 7, 1, printf('j%05d', n / 2),
  'tasks.play', 'q' || (n % 4), CASE n % 4 WHEN 0 THEN 'submitted' WHEN 1 THEN 'dispatched'
  WHEN 2 THEN 'started' ELSE 'completed' END, {now} + n / 7, '{{}}'
FROM numbers
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="jobs, and as many events")
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{Path(folder) / 'plans.db'}")
        store.upgrade()
        begun = time.monotonic()
        with store.writing() as connection:
            for statement in (_JOBS, _EVENTS):
                connection.exec_driver_sql(statement.format(rows=rows, now=NOW))
        click.echo(f"{rows} jobs and {rows} events in {time.monotonic() - begun:.0f} s")
        bad = 0
        for name, action in listings(store, rows).items():
            begun = time.monotonic()
            action()
            took = (time.monotonic() - begun) * 1000
            click.echo(f"{name:22} {took:9.1f} ms")
            for plan in plans(store, action):
                for line in plan.splitlines():
                    click.echo(f"{'':24}{line}")
                bad += reads_whole_table(plan) is not None
        store.close()
    click.echo(f"{bad} listings go through a whole table" if bad else "all from indexes")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""procrastinate on PostgreSQL: workers of one job each, as many as slots; one job per model by its locks."""

from __future__ import annotations

import sys
import time

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from benchmarks.peers import body

_PRODUCES = sys.argv[1] == "producer"
_connector = SyncPsycopgConnector if _PRODUCES else PsycopgConnector
app = App(connector=_connector(conninfo=body.URL))


@app.task(name="work", queue=body.QUEUE)
def work(number: int, ms: float, crash: bool) -> None:
    body.run(number, ms, crash)


def worker(name: str, slots: int) -> None:
    def one() -> None:
        app.run_worker(queues=[body.QUEUE], concurrency=1)

    # The producer makes the tables.
    with psycopg.connect(body.URL, autocommit=True) as connection:
        while connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone() == (None,):
            time.sleep(0.05)
    body.ready(name)
    body.forked(slots, one)


def call(number: int, model: str, ms: float, crash: bool) -> None:
    work.configure(lock=model if body.LOCK else None).defer(number=number, ms=ms, crash=crash)


if __name__ == "__main__":
    if _PRODUCES:
        app.open()
        app.schema_manager.apply_schema()
    body.main(worker, call)

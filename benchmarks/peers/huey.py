"""Huey on Redis: one consumer with processes; one job per model by its task lock, else retried."""

from __future__ import annotations

import logging

from huey import RedisHuey
from huey.exceptions import TaskLockedException

from benchmarks.peers import body

huey = RedisHuey(body.QUEUE, url=body.URL)


@huey.task(retries=1_000_000_000, retry_delay=1, name="work")
def work(number: int, model: str, ms: float, crash: bool) -> None:
    if not body.LOCK:
        body.run(number, ms, crash)
        return
    # Its locks end with their owner only where Redis is of version 7.4 or later: here, as by default, they do not.
    lock = huey.lock_task(model)
    try:
        lock.acquire()
    except TaskLockedException:
        body.refused(number)
        raise
    try:
        body.run(number, ms, crash)
    finally:
        lock.release()


def worker(name: str, slots: int) -> None:
    # It would write a traceback for every refusal.
    logging.getLogger("huey").setLevel(logging.CRITICAL)
    body.ready(name)
    huey.create_consumer(workers=slots, worker_type="process", periodic=False).run()


if __name__ == "__main__":
    body.main(worker, work)

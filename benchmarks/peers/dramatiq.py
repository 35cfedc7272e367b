"""Dramatiq on Redis: processes of one thread; one job per model by a rate limiter, else retried."""

from __future__ import annotations

import logging
import signal

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

from benchmarks.peers import body

broker = RedisBroker(url=body.URL)
dramatiq.set_broker(broker)
limits = RedisBackend(url=body.URL)


# By default a retry comes after 15 seconds to 7 days.
@dramatiq.actor(queue_name=body.QUEUE, max_retries=None, min_backoff=100, max_backoff=1000)
def work(number: int, model: str, ms: float, crash: bool) -> None:
    if not body.LOCK:
        body.run(number, ms, crash)
        return
    mutex = ConcurrentRateLimiter(limits, model, limit=1, ttl=body.LOCK_TTL * 1000)
    with mutex.acquire(raise_on_failure=False) as acquired:
        if not acquired:
            body.refused(number)
            raise dramatiq.RateLimitExceeded(model)
        body.run(number, ms, crash)


def worker(name: str, slots: int) -> None:
    # It would write a line for every refusal.
    logging.getLogger("dramatiq").setLevel(logging.CRITICAL)

    def one() -> None:
        dramatiq.Worker(broker, worker_threads=1).start()
        # The process lives as long as its threads.
        while True:
            signal.pause()

    body.ready(name)
    body.forked(slots, one)


if __name__ == "__main__":
    body.main(worker, work.send)

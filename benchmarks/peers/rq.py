"""RQ: SimpleWorkers, which do not fork for every job; one job per model by its rate limit."""

from __future__ import annotations

from redis import Redis
from rq import Queue, SimpleWorker
from rq.rate_limit import RateLimit

from benchmarks.peers import body


def work(number: int, ms: float, crash: bool) -> None:
    body.run(number, ms, crash)


def worker(name: str, slots: int) -> None:
    def one() -> None:
        SimpleWorker([body.QUEUE], connection=Redis.from_url(body.URL)).work(logging_level="ERROR")

    body.ready(name)
    body.forked(slots, one)


def main() -> None:
    queue = Queue(body.QUEUE, connection=Redis.from_url(body.URL))

    def call(number: int, model: str, ms: float, crash: bool) -> None:
        limit = RateLimit(model, 1) if body.LOCK else None
        # No time limit: the job that holds a model runs for longer than the default.
        arguments = (number, ms, crash)
        queue.enqueue("benchmarks.peers.rq.work", args=arguments, rate_limit=limit, job_timeout=-1)

    body.main(worker, call)


if __name__ == "__main__":
    main()

"""The work queue's verbs wait for Redis and the database: they run in threads, and the server goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from coordinator.web.problems import AWAY_SECONDS, Failed

T = TypeVar("T")

#: Verbs at once, and those that wait for a thread: more would only end with their time.
THREADS, WAITING = 20, 200


class Threads:
    """A bounded number of threads, and a time for each call.

    Not the threads of the framework: those are waited for when a request is given up, so that a database that hangs
    would hold all of them.

    Args:
        seconds: for each call.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="web")
        self._room = threading.Semaphore(THREADS + WAITING)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what a function returns.

        Raises:
            Failed: it took too long, or too many wait. What was begun goes on, so that it may be done after all.
        """
        if not self._room.acquire(blocking=False):
            raise Failed(503, "too much to do at once", {"Retry-After": "1"})
        try:
            future = self._pool.submit(function)
        except BaseException:
            self._room.release()
            raise
        # Also when nobody waits for it any more: only then its thread is free.
        future.add_done_callback(lambda _: self._room.release())
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                # Its own error, of this kind too.
                raise
            raise Failed(
                503,
                f"not answered within {self.seconds:g} seconds; what was asked for may be done nevertheless",
                {"Retry-After": str(AWAY_SECONDS)},
            ) from None

    def close(self) -> None:
        """Take no more calls; those that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

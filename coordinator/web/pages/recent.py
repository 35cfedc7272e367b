"""What was read a moment ago, for all who look at the same: ten open pages ask the database once, not ten times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Answers that are kept; there are fewer different questions than that.
MOST = 200


class Recent:
    """Keeps answers for some seconds, in this process.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[object, ...], tuple[float, Any]] = {}
        self._asking: dict[tuple[object, ...], threading.Lock] = {}

    def get(self, seconds: float, read: Callable[[], T], *key: object) -> T:
        """Return what ``read`` returned less than so many seconds ago, else ask it; one asks, the others wait.

        Args:
            seconds: how old an answer may be.
            read: asks.
            key: what it is about.
        """
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            at, known = self._known.get(key, (float("-inf"), None))
            if self.clock() - at < seconds:
                answer: T = known
                return answer
            begun = self.clock()
            answer = read()
            with self._lock:
                self._known[key] = (begun, answer)
                for old in list(self._known)[:-MOST]:
                    del self._known[old]
            return answer

    def forget(self) -> None:
        """Ask anew from now on: somebody has changed something, and wants to see it."""
        with self._lock:
            self._known.clear()

"""Bounds of what the outside may send: the size of a body, and how often a secret may be wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.web.problems import problem

#: Bytes of a body, and seconds in which it must be here.
BODY_BYTES, BODY_SECONDS = 1_000_000, 30.0

#: Callers whose failures are remembered.
REMEMBERED = 10_000


class Bodies:
    """Reads each body before the app is called, and refuses what is too long or too slow.

    Args:
        app: what is called with what has been read.
        most: bytes of one body.
    """

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.most:
                        # The rest is never read, so the connection is of no more use.
                        away = {"Connection": "close"}
                        await problem(413, f"a body has at most {self.most} bytes", away)(
                            scope, receive, send
                        )
                        return
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            away = {"Connection": "close"}
            await problem(408, f"the body took over {BODY_SECONDS:g} seconds", away)(
                scope, receive, send
            )
            return
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts)}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, again, send)


class Failures:
    """Counts failures by whoever causes them, and says when it is enough.

    Args:
        most: failures within ``seconds``; then nothing more is tried until the first of them is as old as that.
        seconds: see there.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, who: str) -> int:
        """Return seconds after which somebody may try again, 0 for now."""
        now = time.monotonic()
        with self._lock:
            times = self._times.get(who)
            while times and now - times[0] > self.seconds:
                times.popleft()
            if not times:
                self._times.pop(who, None)
                return 0
            return 0 if len(times) < self.most else int(times[0] + self.seconds - now) + 1

    def note(self, who: str) -> None:
        """Count a failure."""
        with self._lock:
            self._times.setdefault(who, deque(maxlen=self.most)).append(time.monotonic())
            self._times.move_to_end(who)
            # Those who failed longest ago go first: a flood of names must not fill the memory.
            while len(self._times) > REMEMBERED:
                self._times.popitem(last=False)

    def forget(self, who: str) -> None:
        """Begin to count anew."""
        with self._lock:
            self._times.pop(who, None)

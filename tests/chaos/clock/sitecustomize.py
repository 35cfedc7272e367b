"""A Python process whose clock is off by ``CHAOS_CLOCK`` seconds; CLOCK_MONOTONIC and all waiting stay as they are.

Not by a library under the process: what it does to waiting and to forks hangs the worker, which proves nothing.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from datetime import datetime as real

OFF = int(os.environ["CHAOS_CLOCK"])

_time, _time_ns = time.time, time.time_ns


class _Meta(type):
    def __instancecheck__(cls, item: object) -> bool:
        return isinstance(item, real)


class _Datetime(real, metaclass=_Meta):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> real:  # type: ignore[override]  # not of this class
        return real.now(tz) + dt.timedelta(seconds=OFF)

    @classmethod
    def utcnow(cls) -> real:  # type: ignore[override]  # not of this class
        return real.fromtimestamp(_time() + OFF, dt.UTC).replace(tzinfo=None)


time.time = lambda: _time() + OFF
time.time_ns = lambda: _time_ns() + OFF * 10**9
dt.datetime = _Datetime  # type: ignore[misc]  # the point itself

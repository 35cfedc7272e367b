"""Time that passes on purpose: how long a blow lasts, how often a producer submits."""

from __future__ import annotations

import time

from tests.helpers import eventually


def pause(seconds: float) -> None:
    """Let time pass: it is the point itself, there is no fact to wait for."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= end, seconds + 30, 0.005)

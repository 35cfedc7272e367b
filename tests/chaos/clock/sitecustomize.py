"""For Python under libfaketime, whose ``clock_nanosleep`` refuses the absolute times that ``time.sleep`` gives it."""

from __future__ import annotations

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep

"""Spans of time as people write them: ``90s``, ``10m``, ``2h``, ``24h``, ``7d``."""

from __future__ import annotations

import re

from coordinator.errors import InvalidValue

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")

ALLOWED = "a duration such as 90s, 10m, 2h, 24h or 7d"


def parse_duration(field: str, text: str) -> float:
    """Return a duration in seconds.

    Args:
        field: what it is for, named when it is wrong.
        text: one or several numbers with units, such as ``1h30m``.

    Raises:
        InvalidValue: it is none, or it is 0.
    """
    parts = _DURATION.findall(text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise InvalidValue(field, text, ALLOWED)
    return float(seconds)


def shown_duration(seconds: float | None) -> str:
    """Return a duration for people, in its two greatest units: ``2h05m``, ``41s``; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 and seconds != whole else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"

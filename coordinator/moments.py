"""Moments as people read and write them: in UTC, on whatever machine, with the zone beside the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from coordinator.durations import parse_duration
from coordinator.errors import InvalidValue

ALLOWED = "a time such as 2026-01-31 or 2026-01-31T12:00 (UTC), or how long ago: 90m, 7d"


def shown_moment(at: float | None) -> str:
    """Return a moment (Unix seconds) to the second: ``2026-11-22 12:44:03 UTC``; ``-`` for None."""
    return "-" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def shown_clock(at: float, *, seconds: bool = False, now: float | None = None) -> str:
    """Return a moment as a clock shows it, with its day when that is not today: ``12:44 UTC``.

    Args:
        at: Unix seconds.
        seconds: whether to show these too.
        now: Unix seconds; by default the present.
    """
    then = datetime.fromtimestamp(at, UTC)
    today = datetime.fromtimestamp(time.time() if now is None else now, UTC).date()
    day = "" if then.date() == today else f"{then:%Y-%m-%d} "
    return f"{day}{then.strftime('%H:%M:%S' if seconds else '%H:%M')} UTC"


def parse_moment(field: str, text: str) -> int:
    """Return a moment in Unix milliseconds.

    Args:
        field: what it is for, named when it is wrong.
        text: a date with or without a time (UTC when it names no zone), or how long ago: ``1h30m``.

    Raises:
        InvalidValue: it is none.
    """
    try:
        # What was shown can be given back.
        at = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except ValueError:
        pass
    else:
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    try:
        ago = parse_duration(field, text)
    except InvalidValue:
        raise InvalidValue(field, text, ALLOWED) from None
    return int((time.time() - ago) * 1000)

"""Moments, spans and numbers as the pages show them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from coordinator.durations import shown_duration
from coordinator.moments import shown_moment

#: Where the console is.
HOME = "/console/"

#: Units of how long ago something is, from the greatest.
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

#: Characters of an id that are shown where its link leads to the whole.
_ID = 8

#: Ids as Celery makes them, and those of executions of workflows and of their steps.
_IDS = re.compile(r"\b(?:workflow-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b(?:\.[\w-]+)?")

_WORKFLOW = "workflow-"


def ago(at: float | None, now: float) -> str:
    """Return how long ago a moment is, or how far ahead, in its greatest unit."""
    if at is None:
        return ""
    apart = now - at
    for seconds, unit in _UNITS:
        if abs(apart) >= seconds:
            number = f"{int(abs(apart) // seconds)} {unit}"
            return f"{number} ago" if apart > 0 else f"in {number}"
    return "now"


def exact(at: float | None) -> str:
    """Return a moment (Unix seconds) to the second, in UTC."""
    return "" if at is None else shown_moment(at)


def iso(at: float | None) -> str:
    """Return a moment (Unix seconds) for programs."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def clock(at: float) -> str:
    """Return the hour and minute of a moment, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"


def span(seconds: float | None) -> str:
    """Return a duration, nothing for None."""
    return "" if seconds is None else shown_duration(seconds)


def number(value: float | None) -> str:
    """Return a number with its thousands apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.1f}"


def short(job_id: str) -> str:
    """Return an id cut to what tells it from others nearby; of a step its name too."""
    whole = job_id.removeprefix(_WORKFLOW)
    step = whole.partition(".")[2] if whole != job_id else ""
    if len(whole) <= _ID + 2:
        return whole
    return f"{whole[:_ID]}…{step}"


def place(job_id: str) -> str:
    """Return the address of a job, or of an execution where it is one's id."""
    whole = job_id.startswith(_WORKFLOW) and "." not in job_id
    return address(f"{HOME}execution" if whole else f"{HOME}job", id=job_id)


def task_name(task: str) -> str:
    """Return a task's name without the package that all of them are in."""
    return task.removeprefix("tasks.")


def author(who: str | None) -> str:
    """Return who did something; of a worker its name, not the rest of what tells its process from others."""
    return (who or "").partition("/")[0]


def every(seconds: float) -> str:
    """Return a round duration in one unit."""
    return next(
        f"{seconds / size:g} {unit}" for size, unit in _UNITS if seconds >= size or unit == "s"
    )


def linked(text: str | None) -> Markup:
    """Return a text whose ids of jobs are links, short ones; everything else in it is escaped."""
    found, end = Markup(), 0
    for match in _IDS.finditer(text or ""):
        job_id = match[0]
        link = Markup('<a class="id" href="{}" title="{}">{}</a>')
        before = (text or "")[end : match.start()]
        found += before + link.format(place(job_id), job_id, short(job_id))
        end = match.end()
    return found + (text or "")[end:]


def plain(value: Any) -> str:
    """Return a value of a log entry as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def address(path: str, fields: Mapping[str, object] | None = None, **more: object) -> str:
    """Return a path with its query; what is None or empty is left out."""
    given = {**(fields or {}), **more}
    query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


FILTERS = {
    "author": author,
    "every": every,
    "exact": exact,
    "iso": iso,
    "linked": linked,
    "clock": clock,
    "span": span,
    "number": number,
    "place": place,
    "short": short,
    "task_name": task_name,
    "plain": plain,
}

"""Entries of the log: who did what to which job, when and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coordinator.resources import QUEUE
from coordinator.store.redaction import Redactor, unstorable
from coordinator.store.transitions import Transition

#: Columns of an entry, in the order of ``log_row``.
LOGGED = (
    "epoch",
    "event_id",
    "ordinal",
    "version",
    "job_id",
    "task",
    "queue",
    "event_type",
    "at",
    "who",
    "why",
    "resource",
    "before",
    "after",
    "data",
)

#: What is true after an operator's action whose event does not say so.
_AFTER = {"paused": "held", "resumed": "free"}


def log_row(
    step: Transition, before: str | None, row: Mapping[str, Any], redactor: Redactor
) -> tuple[Any, ...]:
    """Return the columns of an entry as ``LOGGED`` has them; ``data`` is a text.

    Args:
        step: what happened.
        before: the state before it.
        row: the job's row, for its task and queue; empty when there is none.
        redactor: takes secrets out.
    """
    event = step.event
    data = event.data
    if step.defines:
        # The definition is in the job's row; here it would keep arguments that were redacted there.
        data = {**data, "row": True}
    text = json.dumps(data)
    if redactor.rules or unstorable(text):
        data = redactor.value(data)
        text = json.dumps(data)
    if event.job_id:
        after = step.state
    else:
        before = _shown(data.get("before"))
        after = _shown(data.get("after", _AFTER.get(event.verb)))
    return (
        event.epoch,
        event.event_id,
        step.ordinal,
        event.version,
        event.job_id,
        row.get("task"),
        row.get("queue") or queue_of(data.get("resource")),
        event.verb,
        event.at_ms,
        _shown(data.get("by") or data.get("worker")),
        _shown(data.get("reason") or data.get("error")),
        _shown(data.get("resource")),
        before,
        after,
        text,
    )


def queue_of(resource: Any) -> str | None:
    """Return the queue that a resource is, or None."""
    if isinstance(resource, str) and resource.startswith(f"{QUEUE}:"):
        return resource.partition(":")[2]
    return None


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str)

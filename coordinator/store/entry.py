"""Entries of the log: who did what to which job, when and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coordinator.resources import QUEUE
from coordinator.store.redaction import Redactor, unstorable
from coordinator.store.transitions import Transition

#: What is true after an operator's action whose event does not say so.
_AFTER = {"paused": "held", "resumed": "free"}


def log_row(
    step: Transition, before: str | None, row: Mapping[str, Any], redactor: Redactor
) -> dict[str, Any]:
    """Return the columns of an entry; ``data`` is a text.

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
    of_job = bool(event.job_id)
    return {
        "epoch": event.epoch,
        "event_id": event.event_id,
        "ordinal": step.ordinal,
        "version": event.version,
        "job_id": event.job_id,
        "task": row.get("task"),
        "queue": row.get("queue") or queue_of(data.get("resource")),
        "event_type": event.verb,
        "at": event.at_ms,
        "who": _shown(data.get("by") or data.get("worker")),
        "why": _shown(data.get("reason") or data.get("error")),
        "resource": _shown(data.get("resource")),
        "before": before if of_job else _shown(data.get("before")),
        "after": step.state if of_job else _shown(data.get("after", _AFTER.get(event.verb))),
        "data": text,
    }


def queue_of(resource: Any) -> str | None:
    """Return the queue that a resource is, or None."""
    if isinstance(resource, str) and resource.startswith(f"{QUEUE}:"):
        return resource.partition(":")[2]
    return None


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str)

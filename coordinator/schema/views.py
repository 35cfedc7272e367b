"""The views that are promised to people who look with SQL: outside words, times as text (UTC).

They are made anew by each upgrade that changes something, so a new text needs a new migration, if an empty one.
"""

from __future__ import annotations

import re
from string import Template
from typing import TYPE_CHECKING

from coordinator.schema.texts import FINAL_STATES, HELD

if TYPE_CHECKING:
    from coordinator.schema import Schema

NAMES = (
    "jobs",
    "job_queue_state",
    "job_queue_log",
    "workflow_standing",
    "workflow_executions",
)

#: ``$ms(column)`` is a time as text.
_TEXTS = {
    "jobs": """
SELECT job_id, task AS job_type, task, queue, model, required_models, org, owner, priority, sequence,
  CASE WHEN state IN ($final) THEN upper(state)
       WHEN $held OR retries > 0 THEN 'PROCESSING' ELSE 'PENDING' END AS status,
  CASE WHEN state IN ($final) THEN '' WHEN $held THEN state
       WHEN retries > 0 THEN 'retry ' || retries ELSE state END AS detail,
  state, queue_position, blocked_by_job_id, conflict_reason, args_repr, kwargs_repr, root_id, parent_id,
  $ms(queued_at) AS queued_at, $ms(due_at) AS due_at, $ms(expires_at) AS expires_at,
  $ms(dispatched_at) AS dispatched_at, $ms(started_at) AS started_at, $ms(finished_at) AS finished_at,
  $ms(last_heartbeat) AS last_heartbeat, attempts, retries, losses, max_retries, timeout,
  heartbeat_timeout, worker, token, progress, result, error, epoch, version
FROM ${prefix}coordinator_jobs""",
    "job_queue_state": """
SELECT job_id AS active_job_id, task AS active_job_type, required_models AS active_models,
  queue, worker, $ms(started_at) AS started_at
FROM ${prefix}coordinator_jobs WHERE $held""",
    "job_queue_log": """
SELECT job_id, task AS job_type, queue, event_type,
  CASE WHEN event_type = 'blocked' THEN why END AS conflict_reason,
  who, why, resource, before, after, data, $ms(at) AS created_at, epoch, event_id, version
FROM ${prefix}coordinator_events""",
    # The present step is the last one that has a job; where it has ended and is not the last, the next one's
    # is about to be recorded, unless the execution was given up.
    "workflow_standing": """
SELECT e.execution_id, e.workflow, e.required_models, e.hold, e.steps, e.inputs, e.requested_by, e.reason,
  e.queued_at, s.position AS current_position, s.step AS current_step, s.model AS current_step_model,
  s.job_id AS current_job_id, j.retries, j.worker, j.progress,
  CASE WHEN j.job_id IS NULL OR (j.state = 'completed' AND s.position < e.steps) THEN e.state
       ELSE j.state END AS state,
  CASE WHEN j.state IN ('waiting', 'delayed') THEN j.blocked_by_job_id END AS blocked_by_job_id,
  CASE WHEN j.state IN ('waiting', 'delayed') THEN j.conflict_reason END AS conflict_reason,
  CASE WHEN j.state IN ('waiting', 'delayed') THEN j.queue_position END AS queue_position,
  (SELECT min(k.started_at) FROM ${prefix}coordinator_workflow_steps t
    JOIN ${prefix}coordinator_jobs k ON k.job_id = t.job_id WHERE t.execution_id = e.execution_id) AS started_at,
  CASE WHEN j.job_id IS NULL OR (j.state = 'completed' AND s.position < e.steps) THEN e.finished_at
       ELSE j.finished_at END AS finished_at,
  CASE WHEN j.job_id IS NULL OR (j.state = 'completed' AND s.position < e.steps) THEN e.error
       ELSE j.error END AS error
FROM ${prefix}coordinator_workflow_executions e
JOIN ${prefix}coordinator_workflow_steps s ON s.execution_id = e.execution_id AND s.position = coalesce(
  (SELECT max(t.position) FROM ${prefix}coordinator_workflow_steps t
    JOIN ${prefix}coordinator_jobs k ON k.job_id = t.job_id WHERE t.execution_id = e.execution_id), 1)
LEFT JOIN ${prefix}coordinator_jobs j ON j.job_id = s.job_id""",
    "workflow_executions": """
SELECT execution_id, workflow, required_models, current_step, current_step_model, current_job_id,
  CASE WHEN state IN ($final) THEN upper(state)
       WHEN $held OR started_at IS NOT NULL THEN 'PROCESSING' ELSE 'PENDING' END AS status,
  state, blocked_by_job_id, conflict_reason, requested_by, $ms(queued_at) AS queued_at,
  $ms(started_at) AS started_at, $ms(finished_at) AS finished_at, error
FROM ${prefix}workflow_standing""",
}

_TIMES = {
    "sqlite": r"strftime('%Y-%m-%dT%H:%M:%fZ', \1 / 1000.0, 'unixepoch')",
    "postgresql": r"to_char(to_timestamp(\1 / 1000.0) AT TIME ZONE 'UTC', "
    r"""'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}


def create(schema: Schema, dialect: str) -> list[str]:
    """Return the statements that create the views, for ``sqlite`` or ``postgresql``."""
    statements = []
    for name, text in _TEXTS.items():
        timed = re.sub(r"\$ms\((\w+)\)", _TIMES[dialect], text)
        filled = Template(timed).substitute(prefix=schema.prefix, final=FINAL_STATES, held=HELD)
        statements.append(f"CREATE VIEW {schema.prefix}{name} AS {filled.strip()}")
    return statements


def drop(schema: Schema) -> list[str]:
    """Return the statements that remove the views, so that the tables under them can change."""
    return [f"DROP VIEW IF EXISTS {schema.prefix}{name}" for name in reversed(NAMES)]

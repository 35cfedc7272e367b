"""The life of a job: its states, the moves between them and the words the outside sees.

The chart in ``docs/internals.md`` is compared with this file by a test.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands in the ledger."""

    DELAYED = "delayed"
    WAITING = "waiting"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    UNPROCESSABLE = "unprocessable"
    CANCELED = "canceled"


class Verb(StrEnum):
    """What can happen to a job: the name of the Lua file, the audit event and the metric label alike."""

    SUBMITTED = "submitted"
    PROMOTED = "promoted"
    BLOCKED = "blocked"
    DISPATCHED = "dispatched"
    UNDELIVERED = "undelivered"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    UNPROCESSABLE = "unprocessable"
    RETRIED = "retried"
    REPLACED = "replaced"
    EXPIRED = "expired"
    STOPPING = "stopping"
    RELEASED = "released"
    DRAINED = "drained"
    CANCELED = "canceled"
    RESUBMITTED = "resubmitted"
    RESTORED = "restored"
    REFUSED = "refused"


#: Every move a job can make: state before, verb, state after.
TRANSITIONS: frozenset[tuple[State | None, Verb, State]] = frozenset(
    {
        (None, Verb.SUBMITTED, State.WAITING),
        (None, Verb.SUBMITTED, State.DELAYED),
        (State.DELAYED, Verb.PROMOTED, State.WAITING),
        (State.WAITING, Verb.DISPATCHED, State.DISPATCHED),
        (State.DISPATCHED, Verb.UNDELIVERED, State.WAITING),
        (State.DISPATCHED, Verb.STARTED, State.RUNNING),
        (State.RUNNING, Verb.COMPLETED, State.COMPLETED),
        (State.RUNNING, Verb.FAILED, State.FAILED),
        (State.RUNNING, Verb.UNPROCESSABLE, State.UNPROCESSABLE),
        (State.RUNNING, Verb.RETRIED, State.DELAYED),
        (State.RUNNING, Verb.RETRIED, State.WAITING),
        (State.RUNNING, Verb.REPLACED, State.DELAYED),
        (State.RUNNING, Verb.REPLACED, State.WAITING),
        (State.RUNNING, Verb.REPLACED, State.COMPLETED),
        (State.RUNNING, Verb.EXPIRED, State.WAITING),
        (State.RUNNING, Verb.EXPIRED, State.UNPROCESSABLE),
        (State.RUNNING, Verb.RELEASED, State.WAITING),
        (State.RUNNING, Verb.CANCELED, State.CANCELED),
        (State.RUNNING, Verb.STOPPING, State.STOPPING),
        (State.STOPPING, Verb.REPLACED, State.COMPLETED),
        (State.STOPPING, Verb.RELEASED, State.WAITING),
        (State.STOPPING, Verb.CANCELED, State.CANCELED),
        (State.STOPPING, Verb.COMPLETED, State.COMPLETED),
        (State.STOPPING, Verb.FAILED, State.FAILED),
        (State.STOPPING, Verb.UNPROCESSABLE, State.UNPROCESSABLE),
        (State.DELAYED, Verb.CANCELED, State.CANCELED),
        (State.WAITING, Verb.CANCELED, State.CANCELED),
        (State.DISPATCHED, Verb.CANCELED, State.CANCELED),
        (State.DELAYED, Verb.DRAINED, State.DELAYED),
        (State.WAITING, Verb.DRAINED, State.DELAYED),
        (State.DISPATCHED, Verb.DRAINED, State.DELAYED),
        (State.FAILED, Verb.CANCELED, State.CANCELED),
        (State.UNPROCESSABLE, Verb.CANCELED, State.CANCELED),
        (State.FAILED, Verb.RESUBMITTED, State.WAITING),
        (State.UNPROCESSABLE, Verb.RESUBMITTED, State.WAITING),
        (State.CANCELED, Verb.RESUBMITTED, State.WAITING),
    }
)

#: States a job does not leave by itself.
FINAL: frozenset[State] = frozenset(
    {State.COMPLETED, State.FAILED, State.UNPROCESSABLE, State.CANCELED}
)

#: States in which a job holds units of its resources.
HOLDING: frozenset[State] = frozenset({State.DISPATCHED, State.RUNNING, State.STOPPING})

#: States of a job that waits for its start, and those of one that has a process: what the outside calls pending and
#: in progress.
PENDING: tuple[State, ...] = (State.DELAYED, State.WAITING, State.DISPATCHED)
RUNNING: tuple[State, ...] = (State.RUNNING, State.STOPPING)

#: What the log tells besides what happens to jobs: of resources and workers, of operators and the coordinator itself.
NOTED: frozenset[str] = frozenset(
    {
        *("paused", "resumed", "limit_set", "limit_reset", "override_set", "override_reset"),
        *("panic_opened", "panic_probing", "panic_closed"),
        *("worker_joined", "worker_left", "worker_expired", "worker_drained", "worker_resumed"),
        *("workers_forgotten", "scaled", "populated", "executed", "requested", "disowned"),
        *("cleared", "purged", "pruned", "repaired", "mended"),
        *("logged_in", "login_failed", "logged_out", "password_changed"),
        *("token_created", "token_revoked", "user_added", "user_removed"),
    }
)

#: The older names under which scripts filter the log.
ALIASES: dict[str, Verb] = {
    "WORK_QUEUED": Verb.SUBMITTED,
    "WORK_CLAIMED": Verb.STARTED,
    "WORK_COMPLETED": Verb.COMPLETED,
    "WORK_TIMEOUT": Verb.EXPIRED,
}


def status(state: State, retries: int = 0) -> tuple[str, str]:
    """Return the outside status and its detail for a ledger state.

    Args:
        state: where the job stands in the ledger.
        retries: how often it was retried; a job between two runs is shown as processing.

    Returns:
        ``(status, detail)``, for example ``("PENDING", "delayed")``.
    """
    if state in RUNNING:
        return "PROCESSING", state.value
    if state in FINAL:
        return state.value.upper(), ""
    if retries:
        return "PROCESSING", f"retry {retries}"
    return "PENDING", state.value

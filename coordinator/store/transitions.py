"""Transitions: what an event of the ledger changes in the row of its job. No I/O.

Each effect depends on its event alone, never on the row. So a column has the value of the newest event that
sets it, whatever the order in which the events arrive, and a replay changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from coordinator.jobs import Event, Job
from coordinator.states import FINAL, State, Verb

#: Columns of a job's row that events without a new definition of the job change.
COLUMNS = (
    "sequence",
    "state",
    "queue_position",
    "blocked_by_job_id",
    "conflict_reason",
    "due_at",
    "dispatched_at",
    "started_at",
    "finished_at",
    "attempts",
    "retries",
    "losses",
    "worker",
    "token",
    "last_heartbeat",
    "progress",
    "result",
    "error",
    "epoch",
    "version",
)

#: Data of an event with the same meaning whatever its verb: name there, column here.
_NUMBERS = {
    "sequence": "sequence",
    "attempts": "attempts",
    "retries": "retries",
    "losses": "losses",
    "token": "token",
    "due_ms": "due_at",
}

# Looked up for every event: plain texts, since members of an enumeration are found several times slower.
_STATES = frozenset(state.value for state in State)
_FINAL = frozenset(state.value for state in FINAL)
_DISPATCHED, _COMPLETED = State.DISPATCHED.value, State.COMPLETED.value
_SUBMITTED, _BLOCKED, _STARTED, _RESUBMITTED = (
    verb.value for verb in (Verb.SUBMITTED, Verb.BLOCKED, Verb.STARTED, Verb.RESUBMITTED)
)
_ENDS_IN_ERROR = frozenset(state.value for state in (State.FAILED, State.UNPROCESSABLE))
_GOES_ON_AFTER_ERROR = frozenset(verb.value for verb in (Verb.RETRIED, Verb.REPLACED, Verb.EXPIRED))

_JOB_FIELDS = frozenset(item.name for item in fields(Job))

#: Number of events of one millisecond that a stream id can tell apart here.
PARTS = 1 << 20

#: Second parts of the ids of notes, which no stream reaches: from here to twice as much.
NOTES = 1 << 19


#: What operators set or end, by the event that says so.
SETTING_VERBS = {
    "paused": "hold",
    "resumed": "hold",
    "limit_set": "limit",
    "limit_reset": "limit",
    "override_set": "override",
    "override_reset": "override",
}


# Not frozen: that would cost more than everything else which is done for an event here.
@dataclass(slots=True)
class Transition:
    """An event and its effect.

    Attributes:
        event: as it came from the ledger.
        ordinal: the event's id as one number, in the order of the stream.
        changes: columns of the job's row and their new values.
        job: the job's definition, when the event carries one.
        defines: whether the event carried a definition, also when only its trace is left in the log.
    """

    event: Event
    ordinal: int
    changes: Mapping[str, Any]
    job: Job | None
    defines: bool

    @property
    def state(self) -> str | None:
        return self.changes.get("state")


def order_of(item: Transition) -> tuple[int, int, int, str]:
    """Return what sorts transitions as they happened."""
    event = item.event
    return event.epoch, event.version, item.ordinal, event.event_id


def ordinal_of(event_id: str, at_ms: int) -> int:
    """Return the id of a stream entry as one number that sorts like the stream.

    Args:
        event_id: ``<milliseconds>-<part>``.
        at_ms: the event's time, for an id of another form.
    """
    milliseconds, _, part = event_id.partition("-")
    if not (milliseconds.isdecimal() and part.isdecimal()):
        return at_ms * PARTS
    return int(milliseconds) * PARTS + min(int(part), PARTS - 1)


def moment_of(ordinal: int) -> int:
    """Return the moment (Unix milliseconds) of an ordinal; unlike clocks it never goes back in a stream."""
    return ordinal // PARTS


def first_ordinal(at_ms: int) -> int:
    """Return the least ordinal of a moment (Unix milliseconds)."""
    return at_ms * PARTS


def transition(event: Event) -> Transition:
    """Return what ``event`` changes.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the event is damaged.
    """
    data = event.data
    row = data.get("row")
    job = None
    if isinstance(row, dict):
        known = {name: value for name, value in row.items() if name in _JOB_FIELDS}
        # Lua writes an empty list as {}.
        job = Job(**{**known, "needs": tuple(known["needs"] or ())})
        if job.job_id != event.job_id:
            raise ValueError(f"the row of job {job.job_id!r} in an event of job {event.job_id!r}")
    return Transition(
        event,
        ordinal_of(event.event_id, event.at_ms),
        _changes(event, data) if event.job_id else {},
        job,
        bool(row),
    )


def _changes(event: Event, data: Mapping[str, Any]) -> dict[str, Any]:
    verb = event.verb
    if verb == _BLOCKED:
        holders = data.get("holders")
        return {
            "blocked_by_job_id": str(holders[0]) if isinstance(holders, list) and holders else None,
            "conflict_reason": _text(data.get("reason")),
            "queue_position": _whole(data.get("position")),
        }
    state = data.get("state")
    if state is None:
        return {}
    if state not in _STATES:
        raise ValueError(f"{state!r} is no state")
    changes: dict[str, Any] = {
        "state": state,
        "finished_at": event.at_ms if state in _FINAL else None,
    }
    for name, value in data.items():
        if name in _NUMBERS and value is not None:
            changes[_NUMBERS[name]] = int(value)
    worker = data.get("worker")
    if worker is not None:
        changes["worker"] = str(worker)
    if state == _DISPATCHED:
        changes["dispatched_at"] = event.at_ms
        changes["queue_position"] = None
    elif verb == _STARTED:
        # The progress and the heartbeat of the run before this one say nothing about it.
        changes["started_at"] = changes["last_heartbeat"] = event.at_ms
        changes["progress"] = None
    elif verb == _RESUBMITTED:
        changes.update(result=None, error=None, due_at=changes.get("due_at"))
    elif state == _COMPLETED:
        changes["result"] = _text(data.get("result"))
        changes["error"] = None
    elif state in _ENDS_IN_ERROR or verb in _GOES_ON_AFTER_ERROR:
        changes["error"] = _text(data.get("error") or data.get("reason"))
    return changes


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Fold:
    """The row after a series of transitions.

    Attributes:
        values: columns of ``COLUMNS``, those that may have changed.
        job: the definition that replaces the one in the row, or None.
        steps: the transitions in their order, each with the state before it, for the log.
    """

    values: dict[str, Any]
    job: Job | None
    steps: list[tuple[Transition, str | None]]


def is_late(row: Mapping[str, Any], transitions: Sequence[Transition]) -> bool:
    """Whether the whole history has to be folded: one of the transitions is not newer than the row.

    Also for a row that no event has touched, when the events do not begin with its submission: then the
    row came after the beginning of its history.

    Args:
        row: the row as it is.
        transitions: of its job, in their order.
    """
    newest = row["epoch"], row["version"]
    if newest == (0, 0):
        return all(item.event.verb != _SUBMITTED for item in transitions)
    first = transitions[0].event
    return (first.epoch, first.version) <= newest


def fold(row: Mapping[str, Any], transitions: Iterable[Transition], whole: bool = False) -> Fold:
    """Apply transitions to a row, oldest first.

    Args:
        row: the row as it is.
        transitions: all newer than the row and in their order, or the whole history of the job.
        whole: whether it is the whole history.

    Returns:
        The columns after it; the version never goes back.
    """
    values: dict[str, Any] = {}
    newest = row["epoch"], row["version"]
    state = row["state"] if newest > (0, 0) and not whole else None
    job: Job | None = None
    steps: list[tuple[Transition, str | None]] = []
    if whole:
        transitions = sorted(transitions, key=order_of)
    for item in transitions:
        changes, event = item.changes, item.event
        values.update(changes)
        now = event.epoch, event.version
        if now > newest:
            newest = now
        if item.defines:
            # Only the newest definition counts; of older ones the log keeps just the trace.
            job = item.job
        if "state" in changes:
            steps.append((item, state))
            state = changes["state"]
        else:
            steps.append((item, None))
    if whole:
        # These two are also written by the running job itself, and that is newer.
        values["progress"] = row["progress"]
        beats = (row["last_heartbeat"], values.get("last_heartbeat"))
        values["last_heartbeat"] = max((beat for beat in beats if beat is not None), default=None)
    values["epoch"], values["version"] = newest
    return Fold(values, job, steps)

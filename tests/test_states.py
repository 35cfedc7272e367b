"""The life of a job: the chart in the docs is the code, and the code is a life worth having."""

from __future__ import annotations

import re

import pytest

from coordinator.breaker.states import VERBS
from coordinator.states import ALIASES, FINAL, HOLDING, NOTED, TRANSITIONS, State, Verb, status
from coordinator.store.transitions import SETTING_VERBS
from tests.helpers import ROOT

INTERNALS = (ROOT / "docs" / "internals.md").read_text()


def chart() -> list[tuple[str | None, str, str]]:
    """Return the moves drawn in the docs, ``(before, verb, after)``."""
    section = INTERNALS.split("\n## States\n", 1)[1].split("\n## ", 1)[0]
    drawing = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", section, re.DOTALL)
    assert drawing, "docs/internals.md: no stateDiagram-v2 under ## States"
    moves: list[tuple[str | None, str, str]] = []
    for line in drawing[1].splitlines():
        if line.strip() and not line.strip().startswith("%%"):
            move = re.fullmatch(r"\s+(\[\*\]|\w+) --> (\w+) : (\w+)", line)
            assert move, f"not a move: {line!r}"
            moves.append((None if move[1] == "[*]" else move[1], move[3], move[2]))
    return moves


def test_the_chart_in_the_docs_draws_exactly_the_transitions() -> None:
    drawn = chart()
    coded = {
        (before.value if before else None, verb.value, after.value)
        for before, verb, after in TRANSITIONS
    }
    assert set(drawn) == coded
    assert len(drawn) == len(coded), "a move is drawn twice"


def test_every_verb_of_a_job_is_in_the_table_of_events() -> None:
    table = INTERNALS.split("\n## Events of the ledger\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    named = {name.strip() for row in rows for name in row.split(",")}
    assert {verb.value for verb in Verb} <= named


def test_every_state_can_be_reached() -> None:
    reached: set[State] = set()
    while True:
        more = {
            after for before, _, after in TRANSITIONS if before is None or before in reached
        } - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)


def test_a_job_that_is_not_final_can_always_end() -> None:
    for state in set(State) - FINAL:
        assert (state, Verb.CANCELED, State.CANCELED) in TRANSITIONS


def test_only_a_person_moves_a_final_job() -> None:
    leaving = {(before, verb) for before, verb, _ in TRANSITIONS if before in FINAL}
    assert {verb for _, verb in leaving} == {Verb.CANCELED, Verb.RESUBMITTED}
    assert State.COMPLETED not in {before for before, _ in leaving}


def test_units_are_taken_by_one_move_only() -> None:
    """Any other way into a holding state would be a second admission, past the limits."""
    taking = {
        (before, verb, after)
        for before, verb, after in TRANSITIONS
        if after in HOLDING and before not in HOLDING
    }
    assert taking == {(State.WAITING, Verb.DISPATCHED, State.DISPATCHED)}


def test_a_job_that_is_stopping_is_never_retried() -> None:
    """It lost its claim: what its body says afterwards must not bring it back."""
    verbs = {verb for before, verb, _ in TRANSITIONS if before is State.STOPPING}
    assert Verb.RETRIED not in verbs
    assert (State.STOPPING, Verb.REPLACED, State.COMPLETED) in TRANSITIONS
    assert [
        after
        for before, verb, after in TRANSITIONS
        if (before, verb) == (State.STOPPING, Verb.REPLACED)
    ] == [State.COMPLETED]


@pytest.mark.parametrize(
    ("state", "retries", "expected"),
    [
        (State.WAITING, 0, ("PENDING", "waiting")),
        (State.DELAYED, 0, ("PENDING", "delayed")),
        (State.DISPATCHED, 0, ("PENDING", "dispatched")),
        (State.RUNNING, 0, ("PROCESSING", "running")),
        (State.STOPPING, 1, ("PROCESSING", "stopping")),
        (State.DELAYED, 2, ("PROCESSING", "retry 2")),
        (State.WAITING, 1, ("PROCESSING", "retry 1")),
        (State.COMPLETED, 3, ("COMPLETED", "")),
        (State.FAILED, 0, ("FAILED", "")),
        (State.UNPROCESSABLE, 3, ("UNPROCESSABLE", "")),
        (State.CANCELED, 0, ("CANCELED", "")),
    ],
)
def test_words_of_the_outside(state: State, retries: int, expected: tuple[str, str]) -> None:
    assert status(state, retries) == expected


def test_the_older_names_stand_for_verbs() -> None:
    assert set(ALIASES) == {"WORK_QUEUED", "WORK_CLAIMED", "WORK_COMPLETED", "WORK_TIMEOUT"}
    assert set(ALIASES.values()) <= set(Verb)


def test_all_that_is_noted_in_the_log_is_known_there() -> None:
    known = {verb.value for verb in Verb} | NOTED
    found: set[str] = set()
    for path in (ROOT / "coordinator").rglob("*.py"):
        found |= set(re.findall(r"\bstore\.note\(\s*\"(\w+)\"", path.read_text()))
    bulk = (ROOT / "coordinator" / "operations" / "bulk.py").read_text()
    found |= set(re.findall(r"_Work\.of\(\s*\"(\w+)\"", bulk))
    for path in (ROOT / "coordinator" / "lua").glob("*.lua"):
        found |= set(re.findall(r"\bemit\('(\w+)'", path.read_text()))
    # A prefix that the script completes.
    found.discard("worker_")
    assert {"executed", "cleared", "paused", "mended", "logged_in"} <= found
    assert found <= known
    assert set(SETTING_VERBS) | set(VERBS.values()) <= NOTED

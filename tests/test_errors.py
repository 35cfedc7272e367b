"""The errors that callers tell apart."""

from __future__ import annotations

import pytest

from coordinator.errors import (
    CoordinatorError,
    Unknown,
    UnknownExecution,
    UnknownJob,
    UnknownWorkflow,
)
from coordinator.web.problems import failure_of

ERRORS = (
    UnknownJob("no job 'x' is known"),
    UnknownExecution("no execution 'x' is known"),
    UnknownWorkflow("nihgtly", ["nightly"]),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_is_not_known_is_caught_by_its_own_name_and_by_one_for_all(error: Unknown) -> None:
    assert [kind for kind in map(type, ERRORS) if isinstance(error, kind)] == [type(error)]
    assert isinstance(error, CoordinatorError)
    assert isinstance(error, KeyError)
    told = failure_of(error)
    assert told.status == 404
    # A KeyError by itself would show its text in quotes.
    assert str(told).startswith("no ")

"""What the app wishes for, and what became of it in a round."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Wish:
    """There should be ``depth`` pending or running jobs of this queue and model.

    Attributes:
        queue, model: what is to be kept filled; a model of None counts jobs without one.
        task, kwargs: what to submit.
        depth: jobs wanted, pending or running: the high water.
        reason: shown with the decision.
        low: nothing is submitted while there are so many or more: the low water; by default ``depth``.
        feeds: the queue that uses up what these jobs make: while that stands still, nothing is added.
        integration: what the task depends on, if anything.
    """

    queue: str
    model: str | None
    task: str
    kwargs: dict[str, Any]
    depth: int
    reason: str = ""
    low: int | None = None
    feeds: str | None = None
    integration: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one wish, and why.

    Attributes:
        queue, model, task: of the wish.
        present, wanted: jobs pending or running, and how many there should be.
        submitted: jobs that were added.
        code: ``filled``, ``enough``, ``paused``, ``panic``, ``no_worker``, ``limit``, ``consumer``,
            ``backing_off`` or ``error``.
        reason: in words.
    """

    queue: str
    model: str | None
    task: str
    present: int
    wanted: int
    submitted: int
    code: str
    reason: str


@dataclass(frozen=True)
class Population:
    """A round.

    Attributes:
        at: Unix seconds, 0 before the first.
        added: jobs that were submitted.
        decisions: what was decided about each wish.
        error: why it decided nothing, or "".
    """

    at: float = 0.0
    added: int = 0
    decisions: tuple[Decision, ...] = ()
    error: str = ""


def load_plan(path: str) -> Callable[[], Sequence[Wish]]:
    """Return the callable named ``module:function``.

    Raises:
        InvalidSetting: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        plan: Callable[[], Sequence[Wish]] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSetting("coordinator_populator", path, f"module:function ({error})") from None
    return plan

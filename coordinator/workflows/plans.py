"""Plans: what an execution of a workflow still has to do, as it travels with the message of each step.

So the worker that ends a step can make the next one by itself, also when the definition has changed since or Redis was
wiped in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from coordinator.workflows.templates import filled, references


@dataclass(frozen=True)
class PlannedStep:
    """A step of an execution: what is known of it from the beginning.

    Attributes:
        name, task, queue: as defined; the queue is where the app routed the task.
        models: the models it works on.
        args, kwargs: templates.
        options: integration, timeout, max_retries, retry_delays ... as far as they are given.
    """

    name: str
    task: str
    queue: str
    models: tuple[str, ...]
    args: Any
    kwargs: Any
    options: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """An execution, seen from one of its steps.

    Attributes:
        execution_id: its id, in whose name its jobs hold their models.
        workflow: the name of the workflow.
        steps: all its steps.
        position: the number of this one, from 1.
        inputs: what it was given.
        results: of earlier steps, those that later ones refer to.
        hold: ``workflow`` or ``step``.
        hold_ms: how long the models are kept for a step that cannot begin; None is for ever.
        trusted: whether commands and callables may be any; else those that the settings allow.
        options: org and priority of its jobs, as far as they are given.
    """

    execution_id: str
    workflow: str
    steps: tuple[PlannedStep, ...]
    inputs: dict[str, Any]
    position: int = 1
    results: Mapping[str, Any] | None = None
    hold: str = "workflow"
    hold_ms: int | None = None
    trusted: bool = False
    options: Mapping[str, Any] | None = None

    @property
    def step(self) -> PlannedStep:
        """This step."""
        return self.steps[self.position - 1]

    @property
    def job_id(self) -> str:
        """The id of the job of this step; the same whoever makes it, so that making it twice makes one."""
        return job_id_of(self.execution_id, self.step.name)

    @property
    def models(self) -> tuple[str, ...]:
        """The models the job of this step needs."""
        if self.hold == "step":
            return self.step.models
        return tuple(sorted({model for step in self.steps for model in step.models}))

    @property
    def all_models(self) -> tuple[str, ...]:
        """The models of all steps."""
        return replace(self, hold="workflow").models

    @property
    def keep_ms(self) -> int | None:
        """How long the models are kept when this step has ended and the next one cannot begin."""
        return 0 if self.hold == "step" else self.hold_ms

    def fields(self) -> dict[str, Any]:
        """Return the call of this step, as ``calls.call_of`` takes it.

        Raises:
            InvalidValue: it looks something up in a result that is not there.
        """
        names = {**self.inputs, **(self.results or {})}
        step = self.step
        return {
            "task": step.task,
            "queue": step.queue,
            "models": list(self.models),
            "args": filled("args", step.args, names),
            "kwargs": filled("kwargs", step.kwargs, names),
            **(self.options or {}),
            **{name: value for name, value in step.options.items() if name != "retry_delays"},
        }

    def after(self, result: Any) -> Plan | None:
        """Return the plan of the next step, or None after the last.

        Args:
            result: what this step returned.
        """
        if self.position == len(self.steps):
            return None
        wanted = {
            name
            for step in self.steps[self.position :]
            for value in (step.args, step.kwargs)
            for name in references("", value)
        }
        results = {**(self.results or {}), self.step.name: result}
        # Only what is looked at later: each message carries it.
        kept = {name: value for name, value in results.items() if name in wanted}
        return replace(self, position=self.position + 1, results=kept)

    def header(self) -> dict[str, Any]:
        """Return the plan as the header of a message."""
        return asdict(self)


def job_id_of(execution_id: str, step: str) -> str:
    """Return the id of the job of a step."""
    return f"{execution_id}.{step}"


def plan_of(header: Mapping[str, Any]) -> Plan:
    """Return the plan that a message carries."""
    steps = tuple(
        PlannedStep(**{**step, "models": tuple(step["models"])}) for step in header["steps"]
    )
    return Plan(**{**header, "steps": steps})

"""Workflows: named jobs of several steps, written in Python or in JSON and TOML files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.workflows.templates import NAME, references

#: The execution holds all models from its first step to its last, or each step its own.
HOLDS = ("workflow", "step")

#: Steps of one workflow: all of them travel with each message.
MOST_STEPS = 50
_STEPS = f"a list of 1 to {MOST_STEPS} steps"


@dataclass(frozen=True)
class Step:
    """One step of a workflow: a call of a task.

    Attributes:
        name: how other steps refer to its result.
        task: the task's name.
        models: the models it works on, templates over the inputs; None is what the task itself declares.
        args, kwargs: the arguments, templates over the inputs and the results of earlier steps.
        queue: the queue it runs on; None is where the app routes the task.
        integration: the integration it depends on.
        timeout: seconds it may run.
        max_retries: retries after a failure; None is the task's limit.
        retry_delays: seconds before each retry; the last one repeats.
    """

    name: str
    task: str
    models: str | Sequence[str] | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    integration: str | None = None
    timeout: float | None = None
    max_retries: int | None = None
    retry_delays: Sequence[float] | None = None

    @property
    def templates(self) -> tuple[str, ...]:
        """The models it names, as they were written."""
        if self.models is None:
            return ()
        return (self.models,) if isinstance(self.models, str) else tuple(self.models)


@dataclass(frozen=True)
class Workflow:
    """A named job of several steps, which run one after the other.

    Attributes:
        name: what it is called.
        steps: its steps, in their order.
        required: inputs that each execution must be given.
        defaults: inputs that have a value when an execution does not give one.
        hold: ``workflow`` holds the models of all steps from the first to the last, ``step`` those of each step
            while it runs.
        hold_timeout: seconds after which the models are given back when the next step cannot begin; None is never.
        description: for people.
        org, priority: of its jobs.

    Raises:
        InvalidValue: something in it is not allowed; names the field, the value and what is.
    """

    name: str
    steps: Sequence[Step]
    required: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    hold: str = "workflow"
    hold_timeout: float | None = None
    description: str = ""
    org: str | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        check_id("name", self.name)
        if self.hold not in HOLDS:
            raise InvalidValue("hold", self.hold, "one of " + ", ".join(HOLDS), HOLDS)
        if self.hold_timeout is not None:
            _check_seconds("hold_timeout", self.hold_timeout)
            if self.hold == "step":
                allowed = 'left out with hold = "step", which holds nothing between two steps'
                raise InvalidValue("hold_timeout", self.hold_timeout, allowed)
        self._check_inputs()
        _check_list("steps", self.steps, _STEPS)
        if not 0 < len(self.steps) <= MOST_STEPS:
            raise InvalidValue("steps", self.steps, _STEPS)
        for number, step in enumerate(self.steps):
            _check_step(f"steps[{number}]", step)
        names = [step.name for step in self.steps]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise InvalidValue(f"steps[{number}].name", name, "a name that no other step has")
            if name in self.inputs:
                raise InvalidValue(f"steps[{number}].name", name, "a name that no input has")
        self._check_references(names)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of all its inputs."""
        return (*self.required, *self.defaults)

    def given(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of an execution.

        Raises:
            InvalidValue: one that the workflow does not have, or that is missing.
        """
        for name in inputs:
            if name not in self.inputs:
                allowed = "one of " + (", ".join(self.inputs) or "no inputs")
                raise InvalidValue("inputs", name, allowed, self.inputs)
        for name in self.required:
            if inputs.get(name) is None:
                raise InvalidValue(f"inputs.{name}", inputs.get(name), "given")
        return {**self.defaults, **inputs}

    def _check_inputs(self) -> None:
        _check_list("required", self.required, "a list of names of inputs")
        _check_mapping("defaults", self.defaults, "a mapping of inputs to their values")
        for name in self.inputs:
            check_id("inputs", name)
        for name in self.required:
            if name in self.defaults or list(self.required).count(name) > 1:
                raise InvalidValue("required", name, "named once, and without a default")

    def _check_references(self, names: list[str]) -> None:
        uses = {
            step.name: {
                name: text
                for part, value in (("args", step.args), ("kwargs", step.kwargs))
                for name, text in references(f"steps[{number}].{part}", value).items()
            }
            for number, step in enumerate(self.steps)
        }
        for number, step in enumerate(self.steps):
            known = (*self.inputs, *names)
            for name, text in uses[step.name].items():
                where = f"steps[{number}] ({step.name})"
                if name not in known:
                    allowed = "references to inputs and steps: " + ", ".join(known)
                    raise InvalidValue(where, text, f"{allowed}; there is no {name}", known)
                if name in names[number:]:
                    self._refuse_order(where, text, step.name, name, uses)
            for name, text in references(f"steps[{number}].models", step.templates).items():
                if name not in self.inputs:
                    allowed = "a template over the inputs: " + (", ".join(self.inputs) or "none")
                    raise InvalidValue(f"steps[{number}].models", text, allowed, self.inputs)

    def _refuse_order(
        self, where: str, text: str, own: str, name: str, uses: Mapping[str, Mapping[str, str]]
    ) -> None:
        path = _circle(own, name, uses)
        if path:
            raise InvalidValue(where, text, f"inputs without a circle: {' -> '.join(path)}")
        raise InvalidValue(where, text, f"results of earlier steps; {name} comes later")


def _circle(own: str, name: str, uses: Mapping[str, Mapping[str, str]]) -> list[str] | None:
    """Return the way from a step to itself through what it uses, beginning with ``name``, or None."""
    ways, seen = [[own, name]], {name}
    while ways:
        way = ways.pop()
        if way[-1] == own:
            return way
        for other in uses[way[-1]]:
            if other in uses and (other == own or other not in seen):
                seen.add(other)
                ways.append([*way, other])
    return None


def check_id(where: str, value: object) -> str:
    """Return ``value`` if it can name a workflow, a step or an input."""
    if not isinstance(value, str) or len(value) > 60 or not re.fullmatch(NAME, value):
        raise InvalidValue(where, value, "up to 60 letters, digits, _ and -, a letter first")
    return value


def _check_seconds(where: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise InvalidValue(where, value, "a positive number of seconds")


def _check_list(where: str, value: object, allowed: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidValue(where, value, allowed)


def _check_mapping(where: str, value: object, allowed: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidValue(where, value, allowed)


def _check_name(where: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidValue(where, value, "a name")


def _check_step(where: str, step: object) -> None:
    if not isinstance(step, Step):
        raise InvalidValue(where, step, "a step")
    check_id(f"{where}.name", step.name)
    _check_name(f"{where}.task", step.task)
    for name in ("queue", "integration"):
        if getattr(step, name) is not None:
            _check_name(f"{where}.{name}", getattr(step, name))
    _check_list(f"{where}.args", step.args, "a list")
    _check_mapping(f"{where}.kwargs", step.kwargs, "a mapping")
    if step.models is not None:
        if not isinstance(step.models, str):
            _check_list(f"{where}.models", step.models, "a name or a list of names")
        for name in step.templates:
            _check_name(f"{where}.models", name)
    if step.timeout is not None:
        _check_seconds(f"{where}.timeout", step.timeout)
    _check_retries(where, step.max_retries, step.retry_delays)


def _check_retries(where: str, limit: object, delays: object) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < -1):
        raise InvalidValue(f"{where}.max_retries", limit, "a whole number from 0, or -1: no limit")
    if delays is None:
        return
    _check_list(f"{where}.retry_delays", delays, "a list of seconds")
    for number, delay in enumerate(delays if isinstance(delays, Sequence) else ()):
        if delay != 0:
            _check_seconds(f"{where}.retry_delays[{number}]", delay)


def workflow_of(content: Any) -> Workflow:
    """Return the workflow that a JSON or TOML document describes.

    Raises:
        InvalidValue: something in it is not allowed; names the field, the value and what is.
    """
    known = _known("", content, (item.name for item in fields(Workflow)), ("name", "steps"))
    steps = known["steps"]
    _check_list("steps", steps, _STEPS)
    names = tuple(item.name for item in fields(Step))
    known["steps"] = tuple(
        Step(**_known(f"steps[{number}]", step, names, ("name", "task")))
        for number, step in enumerate(steps)
    )
    return Workflow(**known)


def _known(where: str, content: Any, names: Iterable[str], needed: Sequence[str]) -> dict[str, Any]:
    prefix = f"{where}." if where else ""
    if not isinstance(content, dict):
        raise InvalidValue(where or "workflow", content, "an object")
    choices = tuple(names)
    for name in content:
        if name not in choices:
            allowed = "one of " + ", ".join(choices)
            raise InvalidValue(f"{prefix}field", name, allowed, choices)
    for name in needed:
        if name not in content:
            raise InvalidValue(f"{prefix}{name}", None, "given")
    return dict(content)

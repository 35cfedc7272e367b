"""A job as a person or a script describes it: checked before anything is sent."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.messages.needs import describe
from coordinator.settings import Settings

#: What a description may say.
FIELDS = (
    "task",
    "job_type",
    "args",
    "kwargs",
    "queue",
    "model",
    "models",
    "org",
    "integration",
    "priority",
    "max_retries",
    "timeout",
    "countdown",
)

_OPTIONS = ("org", "integration", "priority", "max_retries", "timeout", "countdown")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task.

    Attributes:
        task: its name.
        args, kwargs: its arguments.
        queue: the queue it goes to.
        models: the models it will need, those that follow from its arguments too.
        options: what else is said: org, priority, models ...
    """

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    models: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


def call_of(app: Any, fields: Mapping[str, Any], trusted: bool = False) -> Call:
    """Return the call that a description means.

    Args:
        app: the coordinated Celery app.
        fields: ``task`` or ``job_type``, and some of ``FIELDS``.
        trusted: whether commands and callables may be any; else those that the settings allow.

    Raises:
        InvalidValue: an unknown field, task or queue, a value that is not allowed, or arguments that do not fit.
    """
    for name in fields:
        if name not in FIELDS:
            raise InvalidValue("field", name, "one of " + ", ".join(FIELDS), FIELDS)
    settings: Settings = app.coordination.settings
    name = _task_name(app, settings, fields)
    args, kwargs = fields.get("args", []), fields.get("kwargs", {})
    if not isinstance(args, list):
        raise InvalidValue("args", args, "a list")
    if not isinstance(kwargs, dict):
        raise InvalidValue("kwargs", kwargs, "an object")
    options = {key: fields[key] for key in _OPTIONS if fields.get(key) is not None}
    if "priority" in options:
        _whole("priority", options["priority"], 0, 9)
    for key in ("timeout", "countdown"):
        if key in options and not _positive(options[key]):
            raise InvalidValue(key, options[key], "a positive number of seconds")
    models = _models(fields)
    if models is not None:
        options["models"] = models
    task = app.tasks.get(name)
    if isinstance(fields.get("model"), str) and _wants_model(task, args, kwargs):
        kwargs = {**kwargs, "model": fields["model"]}
    _check_arguments(task, args, kwargs)
    if not trusted:
        _check_allowed(settings, task, args, kwargs)
    described = describe(settings, name, task, args, kwargs, options)
    queue = _queue(app, name, fields.get("queue"))
    if described is None:
        raise InvalidValue("task", name, "a coordinated task: this one has coordinated=False")
    needs = tuple(described.get("models") or ())
    return Call(name, tuple(args), dict(kwargs), queue, needs, options)


def send(app: Any, call: Call, job_id: str | None = None) -> str:
    """Submit a call; returns the id of its job.

    Args:
        app: the coordinated Celery app.
        call: what to submit.
        job_id: the id it gets; sent twice with one id it is one job. By default a new one.

    Raises:
        StoreUnavailable, LedgerUnavailable, LedgerFull: it was not accepted.
    """
    task, options = app.tasks.get(call.task), {"queue": call.queue, **call.options}
    if job_id is not None:
        options["task_id"] = job_id
    if task is None:
        sent = app.send_task(call.task, call.args, call.kwargs, **options)
    else:
        sent = task.apply_async(call.args, call.kwargs, **options)
    return str(sent.id)


def _task_name(app: Any, settings: Settings, fields: Mapping[str, Any]) -> str:
    if ("task" in fields) == ("job_type" in fields):
        raise InvalidValue("task", fields.get("task"), "given, or a job_type instead")
    if "job_type" in fields:
        types = settings.job_types
        if fields["job_type"] not in types:
            allowed = "one of " + (", ".join(types) or "coordinator_job_types, which is empty")
            raise InvalidValue("job_type", fields["job_type"], allowed, types)
        return str(types[fields["job_type"]])
    name = fields["task"]
    known = sorted({*app.tasks, *settings.task_rules})
    if name not in known:
        own = [one for one in known if not one.startswith(("celery.", "coordinator."))]
        raise InvalidValue("task", name, "one of " + ", ".join(own), own)
    return str(name)


def _queue(app: Any, name: str, given: Any) -> str:
    if given is None:
        routed = app.amqp.router.route({}, name).get("queue")
        return str(getattr(routed, "name", routed))
    return str(app.coordination.work_queue.check_queue(given))


def _models(fields: Mapping[str, Any]) -> list[str] | None:
    if fields.get("model") is not None and fields.get("models") is not None:
        raise InvalidValue("model", fields["model"], "given, or models instead")
    models = fields.get("models")
    if fields.get("model") is not None:
        models = [fields["model"]]
    if models is not None and not isinstance(models, list):
        raise InvalidValue("models", models, "a list of names")
    return models


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidValue(name, value, f"a whole number from {low} to {high}")


def _positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and value > 0


def _wants_model(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a task has an argument ``model`` that the call leaves out: who names the model once means both."""
    if task is None:
        return False
    signature = inspect.signature(task.run)
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError:
        # What is wrong with the arguments is told by their own check.
        return False
    kind = signature.parameters["model"].kind if "model" in signature.parameters else None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return kind in named and "model" not in bound.arguments


def _check_arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    check = getattr(task, "__header__", None)
    if check is None or not task.typing:
        return
    try:
        check(*args, **kwargs)
    except TypeError as error:
        raise InvalidValue(
            "arguments", [*args, dict(kwargs)], f"what the task takes: {error}"
        ) from None


def _check_allowed(
    settings: Settings, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuse commands and callables that the settings do not name.

    A task says with ``allow_listed`` which of its arguments these are: its first one by the name given there.
    """
    for name, setting in (getattr(task, "allow_listed", None) or {}).items():
        value = kwargs[name] if name in kwargs else (args[0] if args else None)
        allowed = getattr(settings, setting)
        if isinstance(value, list):
            words = [str(word) for word in value]
            # As a list it is one program and its arguments, whatever is in them; a text is a shell's.
            fits = (
                shlex.join(words) in allowed
                or words[:1] == [one for one in allowed if one == words[0]][:1]
            )
        else:
            fits = value in allowed
        if not fits:
            raise InvalidValue(
                name, value, f"one of coordinator_{setting}: {', '.join(allowed) or 'nothing yet'}"
            )

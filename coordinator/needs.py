"""What a call needs: from the call itself, the task's options and the rules by task name, in this order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.resources import needs_of
from coordinator.settings import Settings

#: Task options of the coordinator: on the decorator, ``apply_async``, annotations and rules alike.
OPTIONS = (
    "models",
    "org",
    "integration",
    "timeout",
    "heartbeat_timeout",
    "max_retries",
    "retry_delays",
    "coordinated",
)

Models = str | Iterable[str] | Callable[..., str | Iterable[str]] | None


@lru_cache(maxsize=1024)
def _signature(run: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(run)
    except (TypeError, ValueError):
        return None


def _arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if task is not None and args:
        signature = _signature(task.run)
        if signature is not None:
            try:
                bound = signature.bind_partial(*args, **kwargs)
            except TypeError:
                return dict(kwargs)
            bound.apply_defaults()
            return dict(bound.arguments)
    found = dict(kwargs)
    if task is not None:
        signature = _signature(task.run)
        for name, parameter in signature.parameters.items() if signature else ():
            if parameter.default is not parameter.empty:
                found.setdefault(name, parameter.default)
    return found


def models_for(
    models: Models, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of the models a call needs.

    Args:
        models: a name, names, templates over the arguments such as ``"{model}"``, or a callable that
            gets the arguments and returns names.
        task: the task, if its code is here; it gives names to positional arguments.
        args, kwargs: the arguments of the call.

    Raises:
        InvalidValue: a template names an argument that the call does not have.
    """
    if models is None:
        return ()
    if callable(models):
        models = models(*args, **kwargs)
        names = [models] if isinstance(models, str) else list(models)
        return tuple(sorted(set(names)))
    templates = [models] if isinstance(models, str) else list(models)
    if not any("{" in str(item) for item in templates):
        return tuple(sorted(set(templates)))
    arguments = _arguments(task, args, kwargs)
    names = []
    for template in templates:
        try:
            names.append(template.format_map(arguments))
        except (KeyError, IndexError, AttributeError) as error:
            allowed = f"a template over the arguments {sorted(arguments)}"
            raise InvalidValue("models", template, f"{allowed}; {error} is missing") from None
    return tuple(sorted(set(names)))


def describe(
    settings: Settings,
    name: str,
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    call: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Return what the message says about the call, for the header ``coordinator``.

    Args:
        settings: the installation's settings.
        name: the task's name.
        task: the task if its code is here, else None.
        args, kwargs: the arguments of the call.
        call: coordinator options of the call.

    Returns:
        A dict that JSON can hold, or None when the task is not coordinated.

    Raises:
        InvalidValue: a name that cannot be one; nothing has been written.
    """
    rules = settings.task_rules.get(name, {})

    def option(key: str, fallback: Any = None) -> Any:
        if call.get(key) is not None:
            return call[key]
        # A plain function given as an option became a method of the task: take it as it was given.
        own = getattr(task, key, None)
        own = getattr(own, "__func__", own)
        if own is not None:
            return own
        return rules.get(key, fallback)

    if not option("coordinated", True):
        return None
    described: dict[str, Any] = {}
    models = models_for(option("models"), task, args, kwargs)
    org, integration = option("org"), option("integration")
    if isinstance(org, str) and "{" in org:
        (org,) = models_for(org, task, args, kwargs)
    # The queue is known only to the transport; all other names are checked here, before anything is sent.
    needs_of("queue", models, org, integration)
    if models:
        described["models"] = list(models)
    if org is not None:
        described["org"] = org
    if integration is not None:
        described["integration"] = integration
    for key in ("timeout", "heartbeat_timeout"):
        value = option(key)
        if value is not None:
            described[key] = _positive(key, value)
    if task is not None and call.get("max_retries") is None and "max_retries" not in rules:
        described["max_retries"] = -1 if task.max_retries is None else task.max_retries
    else:
        described["max_retries"] = option("max_retries", settings.max_retries)
    return described


def _positive(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise InvalidValue(field, value, "a positive number of seconds")
    return float(value)

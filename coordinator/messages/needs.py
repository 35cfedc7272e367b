"""What a call needs: from the call itself, the task's options and the rules by task name, in this order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.resources import check_name, needs_of
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

#: What a message carries besides: whose units its job takes, and what its end continues. Only a call gives them.
CARRIED = ("owner", "workflow")

Models = str | Iterable[str] | Callable[..., str | Iterable[str]] | None


@lru_cache(maxsize=1024)
def _signature(run: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(run)
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _plain(run: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return names and defaults of a function's arguments if each can be given by place and by name."""
    signature = _signature(run)
    if signature is None:
        return None
    parameters = signature.parameters.values()
    if any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters):
        return None
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    return tuple(signature.parameters), defaults


def _arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    plain = _plain(task.run) if task is not None else None
    if plain is not None:
        # Binding to a signature costs more than all else that is found out about a call.
        names, defaults = plain
        given = dict(zip(names, args, strict=False))
        if len(args) <= len(names) and kwargs.keys().isdisjoint(given):
            return {**defaults, **given, **kwargs}
        return dict(kwargs)
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


def _listed(names: Any) -> list[Any]:
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        raise InvalidValue("models", names, "a name or a list of names")
    return list(names)


def _unique(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({check_name("models", name) for name in names}))


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
        InvalidValue: a name that cannot be one, or a template that names an argument the call does not have.
    """
    if models is None:
        return ()
    if callable(models):
        return _unique(_listed(models(*args, **kwargs)))
    templates = _listed(models)
    if not any("{" in str(item) for item in templates):
        return _unique(templates)
    arguments = _arguments(task, args, kwargs)
    return _unique(_filled("models", template, arguments) for template in templates)


def _filled(field: str, template: Any, arguments: Mapping[str, Any]) -> str:
    text = check_name(field, template)
    try:
        return text.format_map(arguments)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        allowed = f"a template over the arguments {sorted(arguments)}"
        raise InvalidValue(field, template, f"{allowed}; {error} is missing") from None


class Option:
    """Where an option of a call comes from: the call, the task, the rules by task name, in this order."""

    def __init__(
        self, settings: Settings, name: str, task: Any, call: Mapping[str, Any] | None = None
    ) -> None:
        self.settings, self.task, self.call = settings, task, call or {}
        self.rules = settings.task_rules.get(name, {})

    def __call__(self, key: str, fallback: Any = None) -> Any:
        """Return the option, or ``fallback`` when nobody gives it."""
        if self.call.get(key) is not None:
            return self.call[key]
        own = self._own(key)
        return self.rules.get(key, fallback) if own is None else own

    def _own(self, key: str) -> Any:
        own = getattr(self.task, key, None)
        if own is None:
            return None
        function = getattr(own, "__func__", None)
        if function is None:
            return own
        # A plain function given as an option became a method of the task: take it as it was given, unless
        # it was written as a method.
        signature = _signature(function)
        return own if signature is not None and "self" in signature.parameters else function

    @property
    def max_retries(self) -> int | None:
        """Return the limit of the call or of the rules; None leaves it to the task, -1 is no limit."""
        limit = self.call.get("max_retries")
        # Every Celery task has this attribute, so that a rule would never count behind it.
        limit = self.rules.get("max_retries") if limit is None else limit
        if limit is None:
            return None
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < -1:
            raise InvalidValue("max_retries", limit, "a whole number from 0, or -1 for no limit")
        return limit

    @property
    def retry_delays(self) -> tuple[float, ...]:
        """Return the seconds before each automatic retry; the last one repeats."""
        delays = self("retry_delays")
        if delays is None:
            return self.settings.retry_delays
        allowed = "a list of seconds, each 0 or more"
        if isinstance(delays, str) or not isinstance(delays, Iterable):
            raise InvalidValue("retry_delays", delays, allowed)
        found = tuple(delays)
        if any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in found):
            raise InvalidValue("retry_delays", delays, allowed)
        if any(not 0 <= item < float("inf") for item in found):
            raise InvalidValue("retry_delays", delays, allowed)
        return found


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
        A dict that JSON can hold, or None when the task is not coordinated. ``call`` in it names what the
        call itself said, which a retry says again.

    Raises:
        InvalidValue: a name that cannot be one; nothing has been written.
    """
    option = Option(settings, name, task, call)
    if not option("coordinated", True):
        return None
    described: dict[str, Any] = {}
    models = models_for(option("models"), task, args, kwargs)
    org, integration = option("org"), option("integration")
    if callable(org):
        org = org(*args, **kwargs)
    elif isinstance(org, str) and "{" in org:
        org = _filled("org", org, _arguments(task, args, kwargs))
    # The queue is known only to the transport; all other names are checked here, before anything is sent.
    if org is not None or integration is not None or len(models) > 1:
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
    delays = option.retry_delays
    if call.get("retry_delays") is not None:
        described["retry_delays"] = list(delays)
    limit = option.max_retries
    if limit is None:
        limit = settings.max_retries if task is None else task.max_retries
    described["max_retries"] = -1 if limit is None else limit
    described["call"] = [key for key in OPTIONS if call.get(key) is not None]
    described |= _carried(call)
    return described


def _carried(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in CARRIED if options.get(key)}


def _positive(field: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
        raise InvalidValue(field, value, "a positive number of seconds")
    return float(value)


def limit_of(field: str, header: Any, task: Any) -> float | None:
    """Return a limit in seconds that holds for a run: the message's, the task's, that of its queue.

    Args:
        field: ``timeout`` or ``heartbeat_timeout``.
        header: the message's ``coordinator`` header; its producer may not have had the task's code.
        task: the task.
    """
    # Asked of every message, and of an abstract class whether it is one costs more than the rest.
    options = header if type(header) is dict or isinstance(header, Mapping) else {}
    for value in (options.get(field), getattr(task, field, None), options.get(f"queue_{field}")):
        if value is None:
            continue
        if isinstance(value, (int, float)) and value > 0:
            return float(value)
    return None


def said(header: Any) -> dict[str, Any]:
    """Return the options that a message's ``coordinator`` header gives as those of its call.

    Args:
        header: of a retry: what ``describe`` returned; of a producer that knows nothing of the coordinator's
            code: the options themselves.

    Raises:
        InvalidValue: it is no mapping.
    """
    if header is None or header is True:
        return {}
    if header is False:
        return {"coordinated": False}
    if type(header) is not dict and not isinstance(header, Mapping):
        raise InvalidValue("coordinator", header, "a mapping of options")
    if "call" not in header:
        return {key: header[key] for key in OPTIONS if header.get(key) is not None}
    found = {key: header[key] for key in header["call"] if header.get(key) is not None}
    found |= _carried(header)
    models = found.get("models")
    if models is not None:
        # They were templates once; a name with a brace in it must not become one again.
        found["models"] = lambda *_, **__: models
    return found

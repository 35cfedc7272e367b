"""Any Python callable as a job."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordinator import NotRetryable
from tasks import app
from tasks.runs import running


def resolve(path: str) -> Callable[..., Any]:
    """Return the callable named by ``package.module:function`` (or ``:Class.method``).

    Raises:
        NotRetryable: there is none; trying again would not find it either.
    """
    module, separator, name = path.partition(":")
    if not separator or not module or not name:
        raise NotRetryable(f"{path!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NotRetryable(f"{path!r} cannot be found: {error}") from error
    if not callable(found):
        raise NotRetryable(f"{path!r} is a {type(found).__name__}, nothing that can be called")
    function: Callable[..., Any] = found
    return function


@app.task(name="tasks.call.call", allow_listed={"path": "allowed_callables"})
def call(path: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    """Call a function in a worker.

    Long ones should call ``coordinator.progress`` and ``coordinator.checkpoint`` now and then, so that they
    show how far they are and can be canceled softly.

    Args:
        path: ``package.module:function``.
        args, kwargs: what it is called with.

    Returns:
        What it returns, which must be something JSON can express.

    Raises:
        NotRetryable: no such callable.
    """
    with running("tasks.call.call"):
        return resolve(path)(*args, **(kwargs or {}))

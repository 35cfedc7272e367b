"""Celery's canvas under one lock: a chain, group or chord whose tasks hold their models together."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from celery.canvas import _chain, _chord, group

from coordinator.errors import InvalidValue
from coordinator.messages.needs import Models, Option, models_for
from coordinator.messages.transport import collecting
from coordinator.running.context import RunningJob, current_job
from coordinator.workflows import UNKNOWN


def owner_id() -> str:
    """Return a new id of somebody who holds models for several jobs; conflicts show it as a workflow job."""
    return f"workflow-{uuid.uuid4()}"


def _listed(tasks: Any) -> list[Any]:
    # A header may be a group, which is a dict.
    return list(tasks.tasks if isinstance(tasks, group) else tasks)


def _calls(canvas: Any, before: Sequence[Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the signatures of a canvas that are calls of tasks, each with its arguments as far as they are known.

    Args:
        canvas: any signature.
        before: the arguments put before those of its first tasks.
    """
    if isinstance(canvas, _chord):
        for task in _listed(canvas.tasks):
            yield from _calls(task, before)
        yield from _calls(canvas.body, (UNKNOWN,))
    elif isinstance(canvas, (_chain, group)):
        for number, task in enumerate(_listed(canvas.tasks)):
            later = number > 0 and isinstance(canvas, _chain)
            yield from _calls(task, (UNKNOWN,) if later else before)
    else:
        yield canvas, canvas.args if canvas.immutable else (*before, *canvas.args)


def _copied(canvas: Any) -> Any:
    """Return a canvas of its own, down to its tasks: Celery's clones share those of groups."""
    new = canvas.clone()
    if isinstance(canvas, _chord):
        new.kwargs["header"] = [_copied(task) for task in _listed(canvas.tasks)]
        new.kwargs["body"] = _copied(canvas.body)
    elif isinstance(canvas, (_chain, group)):
        new.kwargs["tasks"] = [_copied(task) for task in _listed(canvas.tasks)]
    return new


@dataclass(frozen=True)
class Locked:
    """A canvas that runs under one lock, each time it is sent under a new one."""

    canvas: Any
    models: tuple[str, ...]

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; returns what the canvas itself returns."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send it with Celery's options; returns what the canvas itself returns.

        Raises:
            InvalidValue: a name that cannot be one, or a task whose models are not known yet.
            StoreUnavailable, LedgerUnavailable, LedgerFull: it was not accepted.
        """
        canvas = _copied(self.canvas)
        app = canvas.app
        needed = _union(app, canvas, self.models, args, kwargs or {})
        owner = owner_id()
        for leaf, _ in _calls(canvas, ()):
            leaf.set(owner=owner, models=list(needed))
        # Together: a group's first task may be over before its second is sent, and with it the lock.
        with collecting() as jobs:
            result = canvas.apply_async(args, kwargs or {}, **options)
        app.coordination.work_queue.submit_all(jobs, inside=current_job() is not None)
        return result


def locked(canvas: Any, models: str | Iterable[str] = ()) -> Locked:
    """Return a canvas whose tasks run under one lock, from the first to the last.

    What ``models`` names and what its tasks declare is taken at once, before the first task starts, and given back
    when the last has ended or one that the others wait for has failed.

    Args:
        canvas: a chain, group or chord, also within each other.
        models: names; templates over arguments are for tasks.
    """
    names = (models,) if isinstance(models, str) else tuple(models)
    return Locked(canvas, models_for(list(names), None, (), {}))


def _union(
    app: Any, canvas: Any, models: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    found = set(models)
    for leaf, given in _calls(canvas, args):
        early = not leaf.immutable and not any(one is UNKNOWN for one in given)
        try:
            found.update(_models(app, leaf, given, kwargs if early else {}))
        except (InvalidValue, TypeError) as error:
            allowed = (
                f"known before the first task starts: say {leaf.task}.s(...).set(models=[...])"
            )
            raise InvalidValue("models", getattr(error, "value", str(error)), allowed) from error
    return tuple(sorted(found))


def _models(app: Any, leaf: Any, given: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, ...]:
    task = app.tasks.get(leaf.task)
    declared: Models = Option(app.coordination.settings, leaf.task, task, leaf.options)("models")
    return models_for(declared, task, given, {**leaf.kwargs, **kwargs})


def carry_on(canvas: Any, job: RunningJob) -> None:
    """Let the canvas that replaces a run be its owner's: else the models would go when the run ends.

    Args:
        canvas: what replaces it.
        job: the run.
    """
    for leaf, given in _calls(canvas, ()):
        leaf.set(owner=job.owner)
        if job.workflow is not None:
            leaf.set(workflow=job.workflow)
        try:
            own = _models(leaf.app, leaf, given, {})
        except (InvalidValue, TypeError):
            # Worked out when it is sent; the owner holds the others meanwhile.
            continue
        leaf.set(models=sorted({*own, *job.models}))

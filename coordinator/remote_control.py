"""What ``celery inspect`` and ``celery control`` know of the coordinator: commands that each worker carries out.

They run in the main process of a worker, between its other work: what they ask is bounded, and a Redis that is away
costs them a moment only.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from typing import Any

from celery.worker.control import Panel

from coordinator.errors import CoordinatorError, masked

logger = logging.getLogger("coordinator")

#: Who pauses and resumes, in the log: all workers get the command, and it is one act.
BY = "celery control"

#: Jobs and locks of one answer.
MOST = 100

INSPECT = ("coordinator_status", "locks", "waiting", "why")
CONTROL = ("pause_queue", "resume_queue", "drain_worker", "resume_worker", "scale_pool")


def _answered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Answer with an error in words, instead of a traceback in the log of every worker."""

    @wraps(command)
    def answered(state: Any, **arguments: Any) -> Any:
        coordination = getattr(state.app, "coordination", None)
        if coordination is None:
            return {"error": "the app of this worker is not coordinated"}
        try:
            return command(state, **arguments)
        except CoordinatorError as error:
            return {"error": str(error)}

    return answered


def _queue(state: Any) -> Any:
    return state.app.coordination.work_queue


def coordinator_status(state: Any) -> Any:
    """Show the coordinator's queues: jobs by state, who paused them, whether workers consume them."""
    queues = {}
    for one in _queue(state).queues():
        shown = asdict(one)
        del shown["queue"], shown["holds"]
        queues[one.queue] = shown
    return queues


def locks(state: Any, kind: str = "model") -> Any:
    """Show who holds which models (or another kind: org, queue, integration, serial)."""
    found = _queue(state).get_locks((kind,))[:MOST]
    return {
        lock.resource: {
            "held_by": [holder.id for holder in lock.holders],
            "waiting": lock.waiting,
            "paused": lock.hold is not None,
        }
        for lock in found
    }


def waiting(state: Any, limit: int = 20) -> Any:
    """Show the jobs that wait longest, and what each waits for."""
    return [asdict(job) for job in _queue(state).blocked(max(1, min(limit, MOST)))]


def why(state: Any, job_id: str = "") -> Any:
    """Show why a job does not run: what stops it, who holds that, its place in line, the way out."""
    found = _queue(state).why(job_id)
    names = ("job_id", "state", "code", "resource", "position", "reason", "remedy")
    return {name: getattr(found, name) for name in names}


def pause_queue(state: Any, queue: str = "", reason: str = "") -> Any:
    """Pause a queue: nothing of it starts any more, on no worker; what runs goes on."""
    _queue(state).pause(queue, reason=reason, by=BY)
    return {"ok": f"queue {queue} is paused; coordinator resume {queue}"}


def resume_queue(state: Any, queue: str = "", reason: str = "") -> Any:
    """Resume a queue; what waits starts in its turn."""
    _queue(state).resume(queue, reason=reason, by=BY)
    return {"ok": f"queue {queue} is resumed"}


def drain_worker(state: Any) -> Any:
    """Let a worker take nothing new; what it runs goes on. Name it with -d, or it is all of them."""
    state.consumer.controller.coordinator_lease.view.draining = True
    logger.warning("[COORDINATOR] this worker takes nothing new until it is resumed or restarted")
    return {"ok": "the worker takes nothing new"}


def resume_worker(state: Any) -> Any:
    """Let a drained worker take jobs again. Name it with -d, or it is all of them."""
    state.consumer.controller.coordinator_lease.view.draining = False
    logger.warning("[COORDINATOR] this worker takes jobs again")
    return {"ok": "the worker takes jobs again"}


def scale_pool(state: Any, slots: int = 0) -> Any:
    """Give a worker so many slots; processes that run jobs are not ended. Name it with -d."""
    controller = state.consumer.controller
    if controller.autoscaler:
        return {"error": "the worker scales itself (--autoscale)"}
    if slots < 1:
        return {"error": "at least 1 slot; drain_worker lets it take nothing"}
    pool = controller.pool
    if not hasattr(pool, "grow") or not hasattr(pool, "shrink"):
        return {
            "error": f"a pool of kind {type(pool).__module__} has as many slots as it began with"
        }
    before = pool.num_processes
    if slots > before:
        pool.grow(slots - before)
    elif slots < before:
        # It says so when fewer than that were idle (see ``children.spare_assigned``); those it has ended.
        with contextlib.suppress(ValueError):
            pool.shrink(before - slots)
    after = pool.num_processes
    if after != before:
        state.consumer._update_prefetch_count(after - before)
        # Else it would look at its processes only some seconds later.
        getattr(pool, "maintain_pool", lambda: None)()
    return {"ok": f"{after} slots", "slots": after}


def _without_secrets(shown: Any, name: str = "") -> Any:
    if isinstance(shown, dict):
        return {key: _without_secrets(value, key) for key, value in shown.items()}
    if not isinstance(shown, str):
        return shown
    return "***" if name == "webhook" else masked(shown)


def _mask_configuration() -> None:
    """Let ``celery inspect conf``, and Flower with it, show no password: Celery knows only its own settings."""
    shown = Panel.data["conf"]

    @wraps(shown)
    def conf(state: Any, **arguments: Any) -> Any:
        return _without_secrets(shown(state, **arguments))

    Panel.data["conf"] = Panel.data["dump_conf"] = conf


def _register() -> None:
    _mask_configuration()
    job = {"args": [("job_id", str)], "signature": "JOB_ID"}
    queue = {"args": [("queue", str), ("reason", str)], "signature": "QUEUE [REASON]"}
    options: dict[str, dict[str, Any]] = {
        "locks": {"args": [("kind", str)], "signature": "[KIND=model]"},
        "waiting": {"args": [("limit", int)], "signature": "[N=20]"},
        "why": job,
        "pause_queue": queue,
        "resume_queue": queue,
        "scale_pool": {"args": [("slots", int)], "signature": "SLOTS"},
    }
    for kind, names in (("inspect", INSPECT), ("control", CONTROL)):
        for name in names:
            # Restoring and the database may take longer than Celery's own second.
            given = {"type": kind, "default_timeout": 5.0, **options.get(name, {})}
            Panel.register(**given)(_answered(globals()[name]))


def _help(kind: str, names: Sequence[str]) -> None:
    """Tell of the commands in the help of ``celery inspect`` and ``celery control``, which knows only Celery's."""
    module = sys.modules.get("celery.bin.control")
    command = getattr(module, kind, None)
    if command is None:
        return
    lines = [f"{name} {Panel.meta[name].signature or ''}".strip() for name in names]
    width = max(map(len, lines)) + 2
    texts = [
        f"  {line:{width}}{Panel.meta[name].help}" for line, name in zip(lines, names, strict=True)
    ]
    command.epilog = "\b\nCommands of the coordinator (all: --list):\n" + "\n".join(texts)


def install() -> None:
    """Register the commands, and tell of them in Celery's help where its command line runs."""
    if "coordinator_status" not in Panel.data:
        _register()
    _help("inspect", INSPECT)
    _help("control", CONTROL)

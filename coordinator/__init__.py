"""Coordinator: task orchestration on Celery for work that shares scarce things.

``from coordinator import coordinate; coordinate(app)`` turns a Celery app into a coordinated one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.application import coordinate
    from coordinator.errors import (
        CoordinatorError,
        InvalidSetting,
        InvalidValue,
        JobStopped,
        LedgerFull,
        NotRetryable,
        Refused,
        StoreUnavailable,
    )
    from coordinator.maintenance import get_queue_populator
    from coordinator.messages.canvas import locked
    from coordinator.operations.transactions import outbox
    from coordinator.populator import Wish
    from coordinator.recovery.reaper import JobReaper, JobReaperConfig
    from coordinator.registry import get_all_workflows, register_workflow
    from coordinator.running.context import (
        RunningJob,
        checkpoint,
        current_job,
        get_job_logger,
        progress,
    )
    from coordinator.work_queue import WorkQueue, get_job_coordinator, get_work_queue
    from coordinator.workflows import Step, Workflow

__version__ = "0.1.0"

__all__ = [
    "Bulk",
    "BulkOptions",
    "CoordinatorError",
    "InvalidSetting",
    "InvalidValue",
    "JobReaper",
    "JobReaperConfig",
    "JobStopped",
    "LedgerClosed",
    "LedgerFull",
    "LedgerUnavailable",
    "NoWorker",
    "NotRetryable",
    "Refused",
    "RunningJob",
    "Selection",
    "Step",
    "StoreUnavailable",
    "UnknownExecution",
    "UnknownJob",
    "UnknownWorkflow",
    "Wish",
    "WorkQueue",
    "Workflow",
    "checkpoint",
    "coordinate",
    "current_job",
    "get_all_workflows",
    "get_job_coordinator",
    "get_job_logger",
    "get_queue_populator",
    "get_work_queue",
    "locked",
    "outbox",
    "progress",
    "register_workflow",
]

_HOMES = {
    "application": ("coordinate",),
    "messages.canvas": ("locked",),
    "running.context": ("RunningJob", "checkpoint", "current_job", "get_job_logger", "progress"),
    "errors": (
        "CoordinatorError",
        "InvalidSetting",
        "InvalidValue",
        "JobStopped",
        "LedgerClosed",
        "LedgerFull",
        "LedgerUnavailable",
        "NoWorker",
        "NotRetryable",
        "Refused",
        "StoreUnavailable",
        "UnknownExecution",
        "UnknownJob",
        "UnknownWorkflow",
    ),
    "maintenance": ("get_queue_populator",),
    "populator": ("Wish",),
    "operations.bulk": ("Bulk", "BulkOptions"),
    "operations.transactions": ("outbox",),
    "recovery.reaper": ("JobReaper", "JobReaperConfig"),
    "selection": ("Selection",),
    "registry": ("get_all_workflows", "register_workflow"),
    "work_queue": ("WorkQueue", "get_job_coordinator", "get_work_queue"),
    "workflows": ("Step", "Workflow"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


# Names are imported when they are first used: the guard process and small producers need little of this.
def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'coordinator' has no attribute {name!r}")
    return getattr(import_module(f"coordinator.{_HOME[name]}"), name)

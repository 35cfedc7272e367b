"""The reference page of the Python API, made from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import coordinator
from coordinator.operations.job_coordinator import JobCoordinator
from coordinator.populator.controller import QueuePopulator
from coordinator.work_queue import WorkQueue
from docs.generate import FOLDER

PAGE = FOLDER / "python.md"

INTRODUCTION = """# Python API

What `coordinator` exports, and the methods of `get_work_queue()`. Names that are not on this page may change in any
version. Every error is a `CoordinatorError`; a value that cannot be accepted is also a `ValueError`, something unknown
also a `KeyError`.

`by` is who does something and `reason` why, for the log; `by` is this user and host by default. Bulk verbs take
`dry_run=True`, and then answer with what they would be done to. Moments are Unix seconds.

This page is made from the code: `make docs`.
"""

#: Exports in the order of their need; whatever is not named here comes after.
GROUPS = {
    "Adopting": ("coordinate", "outbox", "locked"),
    "Inside a task": ("current_job", "RunningJob", "checkpoint", "progress", "get_job_logger"),
    "Workflows": ("Workflow", "Step", "register_workflow", "get_all_workflows"),
    "Asking and acting": (
        "get_work_queue",
        "get_job_coordinator",
        "get_queue_populator",
        "Wish",
        "JobReaper",
        "JobReaperConfig",
        "Selection",
        "BulkOptions",
        "Bulk",
    ),
}

#: Objects that are got or made as shown, with the classes whose methods are listed.
HELD = {
    "The job coordinator": ("get_job_coordinator()", JobCoordinator),
    "The populator": ("get_queue_populator()", QueuePopulator),
    "The reaper": ("JobReaper.get_instance()", coordinator.JobReaper),
}

#: Methods of the work queue that the coordinator's own parts call.
OWN = frozenset(
    {
        "accept",
        "accept_in",
        "application",
        "built_epoch",
        "check_queue",
        "check_scope",
        "configure",
        "end_stranded_executions",
        "enrol",
        "ensure_open",
        "enter",
        "evaluate_alerts",
        "evaluate_panic",
        "finish",
        "get_instance",
        "ledger",
        "log_started",
        "note_request",
        "plan_workflow",
        "store",
        "submit_all",
        "unknown_job",
    }
)

#: Classes whose objects nobody else makes.
OBJECTS = (coordinator.RunningJob, coordinator.JobReaper)

_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes):$", re.MULTILINE)


def reference() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    named = {name for names in GROUPS.values() for name in names} | {"WorkQueue"}
    for heading, names in GROUPS.items():
        parts.append(f"## {heading}\n")
        parts += [entry(name, getattr(coordinator, name)) for name in names]
    parts.append("## The work queue\n")
    parts += [entry(name, getattr(WorkQueue, name), "queue.") for name in methods(WorkQueue)]
    for heading, (shown, cls) in HELD.items():
        parts.append(f"## {heading}\n")
        parts += [entry(name, getattr(cls, name), f"{shown}.") for name in methods(cls)]
    parts.append("## Errors\n")
    rest = [name for name in coordinator.__all__ if name not in named]
    parts += [entry(name, getattr(coordinator, name)) for name in sorted(rest)]
    return "\n".join(parts)


def methods(cls: type) -> Iterator[str]:
    """Yield the names of a class's methods that are for others."""
    for name in sorted(set(dir(cls)) - OWN):
        if not name.startswith("_") and callable(getattr(cls, name)):
            yield name


def entry(name: str, thing: Any, before: str = "") -> str:
    """Return what is said of one name."""
    shown = f"{before}{name}{_signature(thing)}"
    return f"### `{shown}`\n\n{_markdown(inspect.getdoc(thing) or '')}\n"


def _signature(thing: Any) -> str:
    if inspect.isclass(thing) and (not is_dataclass(thing) or thing in OBJECTS):
        # Errors, and what only the coordinator makes.
        return ""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing)))
    text = re.sub(r"^\(self(?:, )?", "(", text).removesuffix(" -> None")
    return re.sub(r"<factory>|<object object at \w+>", "...", text)


def _markdown(text: str) -> str:
    first, *sections = _SECTION.split(text)
    parts = [_joined(paragraph) for paragraph in first.strip().split("\n\n")]
    for heading, body in zip(sections[::2], sections[1::2], strict=True):
        # What is indented is of the section; after it the docstring may go on.
        lines, after = list[str](), list[str]()
        for line in body.strip("\n").splitlines():
            (lines if line.startswith(" ") and not after else after).append(line)
        parts.append(f"{heading}:\n\n" + "\n".join(_items(lines, heading)))
        rest = "\n".join(after).strip()
        parts += [_joined(paragraph) for paragraph in rest.split("\n\n") if rest]
    return "\n\n".join(parts)


def _items(lines: list[str], heading: str) -> Iterator[str]:
    if heading == "Returns":
        yield _joined("\n".join(lines))
        return
    text = inspect.cleandoc("\n" + "\n".join(lines))
    for one in re.split(r"\n(?=\S)", text):
        name, colon, about = one.partition(":")
        yield f"- `{name}`: {_joined(about)}" if colon else f"- {_joined(one)}"


def _joined(text: str) -> str:
    return " ".join(text.replace("``", "`").split())

"""The workflows of an app: those defined in Python and those of files."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Celery

from coordinator.errors import InvalidValue, Refused
from coordinator.work_queue import get_work_queue
from coordinator.workflows import Workflow
from coordinator.workflows.files import read_workflows


class Registry:
    """The workflows of one app by name."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._python: dict[str, Workflow] = {}

    def register(self, workflow: Workflow) -> None:
        """Add a workflow that is defined in Python; see ``register_workflow``."""
        if workflow.name in self._python:
            raise InvalidValue("name", workflow.name, "a name that no other workflow has")
        self._python[workflow.name] = workflow

    @cached_property
    def _files(self) -> dict[str, Workflow]:
        paths = self.app.coordination.settings.workflows
        return {workflow.name: workflow for workflow in read_workflows(paths)}

    def all(self) -> dict[str, Workflow]:
        """Return the workflows by name.

        Raises:
            InvalidValue: something in a definition is not allowed.
        """
        # A worker does this when it starts: only then the modules of `imports` are known.
        self.app.loader.import_default_modules()
        for name in self._files:
            if name in self._python:
                raise InvalidValue("coordinator_workflows", name, "not defined in Python as well")
        return {**self._python, **self._files}


def register_workflow(app: Celery, workflow: Workflow) -> Workflow:
    """Define a workflow of a coordinated app in Python.

    Args:
        app: the app; its tasks may be defined later.
        workflow: what can be executed by its name from now on.

    Returns:
        The same workflow.

    Raises:
        InvalidValue: another one has this name.
        Refused: the app is not coordinated.
    """
    if not hasattr(app, "coordination"):
        raise Refused("coordinate(app) must be called before workflows are registered")
    app.coordination.registry.register(workflow)
    return workflow


def get_all_workflows() -> list[Workflow]:
    """Return the workflows of the coordinated app by name.

    Raises:
        CoordinatorError: no app was coordinated in this process.
        InvalidValue: something in a definition is not allowed.
    """
    return get_work_queue().get_workflows()

"""Which Celery app and which settings a command is about."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from coordinator.settings import Settings
    from coordinator.work_queue import WorkQueue

DEFAULT_APP = "tasks"


class Installation:
    """The app and its settings, loaded when they are first asked for.

    Args:
        name: the app as ``celery -A`` takes it, or None for the default.
        app: the app, if Celery has loaded it already.
    """

    def __init__(self, name: str | None = None, app: Any = None) -> None:
        self._name, self._app = name, app

    @classmethod
    def of(cls, ctx: click.Context, name: str | None) -> Installation:
        """Return what ``-A`` says, ours or (as ``celery -A tasks coordinator``) Celery's."""
        root = ctx.find_root()
        if name or root is ctx:
            return cls(name)
        given = root.params.get("app")
        loaded = getattr(root.obj, "app", None)
        return cls(given if isinstance(given, str) else None, loaded if given else None)

    @property
    def name(self) -> str:
        """The app as ``celery -A`` takes it.

        Raises:
            click.UsageError: none was given and there is no default.
        """
        if self._name is None:
            _look_in_current_folder()
            found = os.environ.get("COORDINATOR_APP")
            if not found and _is_here(DEFAULT_APP):
                found = DEFAULT_APP
            if not found:
                raise click.UsageError(
                    f"which Celery app? There is no {DEFAULT_APP!r} in {Path.cwd()}: "
                    "name it with -A or in COORDINATOR_APP"
                )
            self._name = found
        return self._name

    @property
    def app(self) -> Any:
        """The Celery app.

        Raises:
            CoordinatorError: it cannot be loaded, or its settings are wrong.
            click.UsageError: none was given and there is no default.
        """
        if self._app is None:
            from celery.app.utils import find_app

            _look_in_current_folder()
            name = self.name
            try:
                self._app = find_app(name)
            except CoordinatorError:
                raise
            except Exception as error:
                raise CoordinatorError(
                    f"the Celery app {name!r} cannot be loaded: {type(error).__name__}: {error}"
                ) from error
        return self._app

    @property
    def work_queue(self) -> WorkQueue:
        """The work queue of the app, its ledger open.

        Raises:
            CoordinatorError: the app cannot be loaded, is not coordinated, or Redis or the database is away.
        """
        work_queue = self.records
        work_queue.wait_until_open()
        return work_queue

    @property
    def records(self) -> WorkQueue:
        """The work queue for what the database alone can answer, with Redis away too.

        Raises:
            CoordinatorError: the app cannot be loaded, or is not coordinated.
        """
        coordination = getattr(self.app, "coordination", None)
        if coordination is None:
            raise CoordinatorError(
                f"the Celery app {self.name!r} is not coordinated: call coordinate(app) where it is made"
            )
        # Its configuration is read and checked before anything else is tried.
        self.app.conf.get("broker_url")
        work_queue: WorkQueue = coordination.work_queue
        return work_queue

    @property
    def settings(self) -> Settings:
        """The settings of the app; those of a coordinated one know its broker, where the ledger is.

        Raises:
            InvalidSetting: one is wrong.
            CoordinatorError: the app cannot be loaded.
            click.UsageError: no app was given and there is no default.
        """
        from coordinator.settings import load

        coordination = getattr(self.app, "coordination", None)
        if coordination is None:
            return load(self.app.conf)
        settings: Settings = coordination.settings
        return settings


def _is_here(name: str) -> bool:
    # Not one that is installed somewhere: only in this folder its configuration is found as well.
    spec = importlib.util.find_spec(name)
    return bool(spec and spec.origin and Path(spec.origin).is_relative_to(Path.cwd()))


def _look_in_current_folder() -> None:
    # A console script's import path begins with its own folder, not with the one it is called in.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)

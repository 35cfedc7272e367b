"""pytest-celery's nodes on local processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
from pytest_celery import CeleryTestWorker

from coordinator.testing.processes import WorkerProcess


class LocalWorker(CeleryTestWorker):
    """pytest-celery's worker node on a process of this machine."""

    container: WorkerProcess

    def hostname(self) -> str:
        """Return Celery's name of the node."""
        return self.container.node

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return the worker's main process and all below it, as psutil describes them."""
        top = psutil.Process(self.container.pid)
        found = [one.as_dict(columns) for one in (top, *top.children(recursive=True))]
        wanted = (filters or {}).items()
        return [one for one in found if all(one.get(name) == value for name, value in wanted)]

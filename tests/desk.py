"""An installation for the tests of the operators' verbs: a real app, and workers that do as the test says.

A test file asks for the fixture with ``pytest_plugins = ["tests.workers", "tests.desk"]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from coordinator.cli import main
from coordinator.work_queue import WorkQueue

if TYPE_CHECKING:
    from tests.workers import Installation


Call = Callable[..., Result]


class Desk:
    """The work queue of an app, and a worker without a process."""

    def __init__(self, installation: Installation, slots: int = 10) -> None:
        self.installation = installation
        self.queue: WorkQueue = installation.work_queue
        self.queue.wait_until_open()
        self.ledger = self.queue.ledger
        self.number = 0
        self.worker = "w/here/1/1"
        self.work(slots)

    def work(self, slots: int = 10, *queues: str) -> None:
        """Register the worker, with slots for some queues."""
        assert (
            self.ledger.renew(
                self.worker, queues or ("work", "training"), slots, register=True
            ).answer
            == "ok"
        )

    def send(self, model: str | None = None, *acts: Any, **options: Any) -> str:
        """Submit a job; returns its id."""
        kwargs = {} if model is None else {"model": model}
        return str(self.installation.task("play").apply_async(acts, kwargs, **options).id)

    def token(self, job_id: str) -> int:
        job = self.ledger.job(job_id)
        assert job is not None
        return int(job["token"])

    def state(self, job_id: str) -> str:
        return (self.ledger.job(job_id) or {}).get("state", "gone")

    def start(self, job_id: str) -> int:
        """Claim a dispatched job; returns its token."""
        token = self.token(job_id)
        self.number += 1
        assert self.ledger.claim(job_id, token, f"n{self.number}", self.worker).granted
        return token

    def end(self, job_id: str, outcome: str = "completed", error: str = "") -> None:
        """Run a dispatched job to its end."""
        data = {"error": error} if error else {"result": "1"}
        assert self.ledger.finish(job_id, self.start(job_id), outcome, data).answer == "done"

    def fail(self, error: str, model: str | None = None, **options: Any) -> str:
        """Submit a job and let it fail; returns its id."""
        job_id = self.send(model, **options)
        self.end(job_id, "failed", error)
        return job_id

    def record(self) -> None:
        assert self.queue.catch_up()


@pytest.fixture
def open_desk() -> type[Desk]:
    """For tests that set up the installation themselves."""
    return Desk


@pytest.fixture
def desk(alone: Installation) -> Iterator[Desk]:
    own = Desk(alone)
    yield own
    own.ledger.pool.disconnect()


@pytest.fixture
def call(desk: Desk) -> Iterator[Call]:
    """Call a command of the desk's app; its exit code is checked."""
    module = ModuleType("desk_app")
    module.app = desk.installation.app  # type: ignore[attr-defined]  # a module made here
    sys.modules["desk_app"] = module

    def run(*arguments: str, answer: str | None = None, code: int = 0) -> Result:
        shown = CliRunner().invoke(main, ("-A", "desk_app", *arguments), input=answer)
        assert shown.exit_code == code, shown.output + repr(shown.exception)
        return shown

    yield run
    del sys.modules["desk_app"]

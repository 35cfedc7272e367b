"""Runbooks, read and carried out: the pages of docs/runbooks, and an installation that they are about."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from coordinator.cli import main
from coordinator.machine.processes import Processes
from tests.helpers import ROOT, eventually, running

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

FOLDER = ROOT / "docs" / "runbooks"
APP = "tests.runbook_app"

#: Seconds for what takes a few, and for a start: two cores may have other work.
PATIENCE, START = 30, 90

_MARKED = re.compile(r"<!-- runbook: ([a-z ]+) -->\n```text\n(.*?)```", re.DOTALL)

#: What differs from one time to the next: numbers, moments, ids, names of machines.
_VARIES = re.compile(r"\S*(?:\d|@)\S*")


@dataclass(frozen=True)
class Step:
    """A command of a page, and the lines that its answer has among others."""

    command: str
    sample: tuple[str, ...]

    def named(self, names: dict[str, str]) -> Step:
        """Return the step with what stands for an id or a worker filled in."""

        def fill(text: str) -> str:
            return re.sub(r"\b(JOB|NODE)\b", lambda found: names[found[0]], text)

        return Step(fill(self.command), tuple(map(fill, self.sample)))

    def check(self, shown: str) -> None:
        """Compare an answer with the sample: the words that matter, in their order."""
        text, at = " ".join(shown.split()), 0
        for line in self.sample:
            found = re.compile(_pattern(line)).search(text, at)
            assert found, f"{self.command}: {line!r} is not in its answer:\n{shown}"
            at = found.end()


def _pattern(line: str) -> str:
    words = [r"\S+" if _VARIES.fullmatch(word) else re.escape(word) for word in line.split()]
    return r"\s+".join(words)


@dataclass(frozen=True)
class Page:
    """A runbook: its marked blocks, by mark."""

    name: str
    blocks: dict[str, tuple[Step, ...]]

    @classmethod
    def read(cls, name: str) -> Page:
        text = (FOLDER / f"{name}.md").read_text()
        return cls(name, {mark: tuple(_steps(block)) for mark, block in _MARKED.findall(text)})


def _steps(block: str) -> Iterator[Step]:
    command, sample = "", list[str]()
    for line in block.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step(command, tuple(sample))
            command, sample = line.removeprefix("$ "), []
        else:
            sample.append(line)
    yield Step(command, tuple(sample))


class Site:
    """A running ``coordinator up``, steered by the commands of the pages.

    Args:
        data: its data folder.
    """

    def __init__(self, data: Path) -> None:
        self.data, self.world = data, data / "world"
        self.environment = {
            "COORDINATOR_DATA_DIR": str(data),
            "COORDINATOR_APP": APP,
            "COORDINATOR_LEASE_SECONDS": "3",
        }
        self._more = contextlib.ExitStack()

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Run everything; ready when this returns."""
        self.world.mkdir(parents=True)
        command = ("python", "-m", "coordinator", "up", "--plain", "--no-flower", "--no-web")
        log = self.data.parent / "up.log"
        with self._more, running(*command, env=self.environment, log=log, grace=20) as process:

            def ready() -> None:
                assert process.poll() is None, log.read_text()
                assert len(self.work_queue.get_active_workers()) == 3, log.read_text()

            # Its address is chosen with the first start.
            eventually((self.data / "redis" / "address.json").exists, START)
            self.app = importlib.import_module(APP).app
            try:
                eventually(self._reached, START)
                eventually(ready, START)
                yield
            finally:
                self.work_queue.ledger.pool.disconnect()
                self.work_queue.store.close()

    def _reached(self) -> bool:
        return self.work_queue.get_liveness().ok and self.work_queue.ensure_open()

    @property
    def work_queue(self) -> WorkQueue:
        found: WorkQueue = self.app.coordination.work_queue
        return found

    # -- the world -----------------------------------------------------------------------------------

    def let(self, fact: str, so: bool = True) -> None:
        """Make something so in the world of the jobs, or no more."""
        path = self.world / fact
        path.touch() if so else path.unlink(missing_ok=True)

    def send(self, task: str, number: int = 1, **kwargs: Any) -> list[str]:
        """Send jobs; ``{n}`` in an argument is the number of the job, and ``org`` an option of the call."""
        org, sent = kwargs.pop("org", None), []
        for n in range(number):
            own = {name: str(value).format(n=n) for name, value in kwargs.items()}
            sent.append(self.app.tasks[task].apply_async(kwargs=own, org=org).id)
        return sent

    def becomes(self, job_id: str, *states: str) -> None:
        eventually(lambda: self.work_queue.get_job(job_id).state in states, PATIENCE)

    def opens(self, scope: str) -> None:
        """Wait until a circuit breaker is open."""
        eventually(lambda: self.work_queue.get_panic(scope)[0].state == "open", PATIENCE)

    def freeze(self, name: str) -> None:
        """Stop a process of ``coordinator up`` as if it hung."""
        pid = next(found.pid for found in Processes(self.data).all() if found.name == name)
        os.kill(pid, signal.SIGSTOP)

    # -- the pages -----------------------------------------------------------------------------------

    def call(self, command: str) -> str:
        """Carry out a command; returns what it says."""
        words = shlex.split(command)
        if words[0] == "celery":
            own = [APP if word == "tasks" else word for word in words]
            log = self.data.parent / "celery.log"
            self._more.enter_context(
                running("python", "-m", *own, env=self.environment, log=log, grace=0)
            )
            return ""
        assert words[0] == "coordinator", command
        shown = CliRunner().invoke(main, words[1:])
        assert shown.exit_code in (0, 1), f"{command}: {shown.output}"
        return shown.output

    def sees(self, page: Page, mark: str = "find", **names: str) -> None:
        """Carry out the commands of a block until each says what the page shows."""
        for step in (step.named(names) for step in page.blocks[mark]):

            def said(step: Step = step) -> None:
                step.check(self.call(step.command))

            eventually(said, PATIENCE, interval=0.3)

    def mends(self, page: Page, mark: str = "mend", **names: str) -> None:
        """Carry out the commands of a block, each once."""
        for step in (step.named(names) for step in page.blocks[mark]):
            step.check(self.call(step.command))

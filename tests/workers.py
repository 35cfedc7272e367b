"""Real workers for the tests of the Celery side, each in a process of its own, and what they left behind.

A test file asks for the fixtures with ``pytest_plugins = ["tests.workers"]``.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.utils.json import dumps

from coordinator.work_queue import WorkQueue
from tests import celery_app
from tests.helpers import eventually, free_port, redis_executable, running

#: Seconds to wait for what takes milliseconds: two cores may have other work.
PATIENCE = 30

#: Databases of the Redis of these tests; each test that wants an installation of its own gets a new one.
DATABASES = 1000

_numbers, _databases = itertools.count(1), itertools.count(1)


@dataclass(frozen=True)
class Worker:
    """A running worker."""

    node: str
    pid: int
    log: Path

    def said(self, text: str) -> bool:
        return text in self.log.read_text()


@dataclass
class Installation:
    """A Redis, a database and the apps that use them."""

    broker: str
    folder: Path
    conf: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def app(self) -> Celery:
        """The app as its producers have it."""
        return celery_app.create(self.broker, self.folder, **self.conf)

    @cached_property
    def foreign(self) -> Celery:
        """A plain Celery app with the tasks' code, which knows nothing of the coordinator."""
        return celery_app.create(self.broker, self.folder, coordinated=False)

    @cached_property
    def stranger(self) -> Celery:
        """A coordinated app without the tasks' code."""
        rules = {"play": {"models": "{model}"}, "add": {"models": ["rule-a", "rule-b"]}}
        conf = {**self.conf, "coordinator_task_rules": rules}
        return celery_app.create(self.broker, self.folder, code=False, **conf)

    @cached_property
    def redis(self) -> Any:
        return redis.Redis.from_url(self.broker, decode_responses=True)

    @property
    def work_queue(self) -> WorkQueue:
        found: WorkQueue = self.app.coordination.work_queue
        return found

    def task(self, name: str) -> Any:
        return self.app.tasks[name]

    def play(self, *acts: Any, **kwargs: Any) -> Any:
        return self.task("play").delay(*acts, **kwargs)

    def s(self, *acts: Any, **kwargs: Any) -> Any:
        return self.task("play").s(*acts, **kwargs)

    def model(self) -> str:
        """Return a name that no other test uses."""
        return f"model-{uuid.uuid4().hex[:8]}"

    gate = model

    def open(self, *gates: str) -> None:
        for gate in gates:
            (self.folder / "gates" / gate).touch()

    def trace(self, result: Any, event: str | None = None) -> list[dict[str, Any]]:
        """Return what the bodies of a job wrote, of one kind or all."""
        path = self.folder / "trace" / str(getattr(result, "id", result))
        if not path.exists():
            return []
        # A body that is killed may have begun its last line.
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if event in (None, line["event"])]

    def runs(self, result: Any) -> int:
        return len(self.trace(result, "start"))

    def state(self, result: Any) -> str:
        """Return the job's state in the ledger, or in the store when the ledger has forgotten it."""
        job_id = str(getattr(result, "id", result))
        job = self.work_queue.ledger.job(job_id)
        if job is not None:
            return job["state"]
        row = self.work_queue.store.job(job_id)
        return str(row["state"]) if row else "unknown"

    def get(self, result: Any, **options: Any) -> Any:
        """Return the job's result."""
        return result.get(timeout=PATIENCE, **options)

    def becomes(self, result: Any, state: str) -> None:
        """Wait until the job is in a state of the ledger."""

        def check() -> None:
            assert self.state(result) == state

        eventually(check, PATIENCE)

    def ends(self, result: Any, state: str) -> None:
        """Wait until Celery shows the job in a state."""

        def check() -> None:
            assert result.state == state

        eventually(check, PATIENCE)

    def starts(self, result: Any, runs: int = 1) -> None:
        """Wait until the body of a job has begun."""
        eventually(lambda: self.runs(result) >= runs, PATIENCE)

    def waits(self, results: Iterable[Any]) -> None:
        """Wait until none of the jobs is on its way to a worker."""
        for result in results:
            self.becomes(result, "waiting")

    @contextlib.contextmanager
    def held(self, model: str) -> Iterator[None]:
        """Hold a model: what needs it waits."""
        self.work_queue.pause(model=model, reason="a test", by="test")
        try:
            yield
        finally:
            self.work_queue.resume(model=model, by="test")

    @contextlib.contextmanager
    def worker(
        self,
        *options: str,
        queues: Sequence[str] = ("work",),
        pool: str = "prefork",
        concurrency: int = 2,
        events: bool = True,
        **conf: Any,
    ) -> Iterator[Worker]:
        """Run a worker, ready when this returns and gone with all its processes afterwards.

        Args:
            options: further ones of ``celery worker``.
            queues: what it consumes.
            pool, concurrency: as Celery has them.
            events: whether it sends events.
            conf: settings of this worker alone, such as ``coordinator_lease_seconds``.
        """
        name = f"w{next(_numbers)}@test"
        log = self.folder / f"{name}.log"
        env = {
            celery_app.BROKER: self.broker,
            celery_app.FOLDER: str(self.folder),
            celery_app.SETTINGS: dumps({**self.conf, **conf}),
        }
        command = ["python", "-m", "celery", "-A", "tests.celery_app", "worker", "-n", name]
        command += ["-Q", ",".join(queues), "-P", pool, "-c", str(concurrency), "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle", *(["-E"] if events else []), *options]
        with running(*command, env=env, log=log, grace=0) as process:

            def ready() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                return f"{name} ready." in log.read_text()

            eventually(ready, timeout=60)
            try:
                yield Worker(name, process.pid, log)
            finally:
                if process.poll() is None:
                    assert "Unrecoverable" not in log.read_text()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for these tests alone, since others empty theirs whenever they like: its URL without database.

    One for all of them: results that Python forgets later than the test still say so to their server.
    """
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    options = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
    command = [redis_executable(), "--port", str(port), "--bind", "127.0.0.1", *options]
    command += ["--databases", str(DATABASES)]
    with running(*command, cwd=folder, log=folder / "redis.log", grace=0):
        with redis.Redis(port=port) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            eventually(answers)
        yield f"redis://127.0.0.1:{port}"
        gc.collect()


@pytest.fixture(scope="session")
def shared(_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with one running prefork worker, for all tests that do not disturb each other."""
    own = Installation(f"{_server}/0", tmp_path_factory.mktemp("shared"))
    with contextlib.closing(own.redis), own.worker(concurrency=4):
        yield own


@pytest.fixture
def alone(_server: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation for one test, without a worker."""
    own = Installation(f"{_server}/{next(_databases)}", tmp_path)
    with contextlib.closing(own.redis):
        yield own


@pytest.fixture
def open_installation() -> type[Installation]:
    """For tests on a Redis of their own."""
    return Installation

"""The pytest plugin: fixtures that build on pytest-celery's, on local processes instead of containers.

pytest-celery's own fixtures of these names start containers; loaded after it, as pytest does with what ``conftest.py``
asks for, these are what a test gets, and its clusters and ``celery_setup`` are made of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import sqlalchemy as sa
from pytest_celery import CeleryTestBackend, CeleryTestBroker

from coordinator.embedded import Embedded
from coordinator.testing.nodes import LocalWorker
from coordinator.testing.processes import RedisProcess, WorkerProcess

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue


_FOLDER = pytest.StashKey[Path]()
_BEFORE = pytest.StashKey[dict[str, str | None]]()


def pytest_configure(config: pytest.Config) -> None:
    """Point the environment at the tests' servers before the app under test is imported.

    An app reads its configuration once, and pytest's look at a module that imports a task is enough for that.
    """
    folder = config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="coordinated-"))
    found = environment(folder)
    config.stash[_BEFORE] = {name: os.environ.get(name) for name in found}
    os.environ.update(found)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the environment as it was."""
    for name, value in config.stash.get(_BEFORE, {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if _FOLDER in config.stash:
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """Return what makes an app use the servers of a folder, whatever its own configuration says."""
    url = Embedded(folder).url
    return {
        "CELERY_BROKER_URL": url,
        "CELERY_RESULT_BACKEND": url,
        "COORDINATOR_REDIS_URL": url,
        "COORDINATOR_DATABASE_URL": f"sqlite:///{folder}/jobs.db",
        "COORDINATOR_DATA_DIR": str(folder),
    }


@pytest.fixture(scope="session")
def coordinated_app_name() -> str:
    """The app under test, as ``celery -A`` takes it. Override it, or set COORDINATOR_APP."""
    return os.environ.get("COORDINATOR_APP") or "tasks"


@pytest.fixture
def coordinated_settings() -> dict[str, str]:
    """Settings of the workers, as environment variables. Leases are short, so that killed ones are missed soon."""
    return {"COORDINATOR_LEASE_SECONDS": "5"}


@pytest.fixture
def coordinated_worker_options() -> Sequence[str]:
    """Options of ``celery worker``; without ``-Q`` it consumes all queues of the app."""
    return ("-c", "2")


@pytest.fixture(scope="session")
def coordinated_redis(pytestconfig: pytest.Config) -> Iterator[RedisProcess]:
    """A Redis for the whole test run."""
    server = RedisProcess(pytestconfig.stash[_FOLDER])
    try:
        server.ready()
        yield server
    finally:
        server.end()


@pytest.fixture
def celery_broker(coordinated_redis: RedisProcess) -> CeleryTestBroker:
    """pytest-celery's broker node; its Redis is empty."""
    if coordinated_redis.status != "running":
        coordinated_redis.start()
    coordinated_redis.ready()
    with redis.Redis.from_url(coordinated_redis.url) as client:
        client.flushall()
    return CeleryTestBroker(coordinated_redis)


@pytest.fixture
def celery_backend(celery_broker: CeleryTestBroker) -> CeleryTestBackend:
    """pytest-celery's backend node: the same Redis."""
    return CeleryTestBackend(celery_broker.container)


@pytest.fixture
def celery_setup_app(celery_broker: CeleryTestBroker, coordinated_app_name: str) -> Any:
    """The app under test, on an empty Redis and an empty database."""
    from celery.app.utils import find_app

    celery_broker.ready()
    app = find_app(coordinated_app_name)
    store = app.coordination.work_queue.store
    with store.writing() as connection:
        for table in reversed(store.schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))
    app.set_current()
    app.set_default()
    return app


@pytest.fixture
def work_queue(celery_setup_app: Any) -> WorkQueue:
    """The work queue of the app: submit, why, cancel, pause and all the rest."""
    found: WorkQueue = celery_setup_app.coordination.work_queue
    found.wait_until_open()
    return found


@pytest.fixture
def celery_worker(
    work_queue: WorkQueue,
    celery_setup_app: Any,
    coordinated_app_name: str,
    coordinated_settings: Mapping[str, str],
    coordinated_worker_options: Sequence[str],
    tmp_path: Path,
) -> Iterator[LocalWorker]:
    """pytest-celery's worker node: a real worker of the app, ready, and ended after the test."""
    work_queue.wait_until_open()
    process = WorkerProcess(
        coordinated_app_name,
        "worker",
        tmp_path,
        coordinated_settings,
        coordinated_worker_options,
    )
    try:
        process.ready()
        yield LocalWorker(process, celery_setup_app)
    finally:
        process.end()

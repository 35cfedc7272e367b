"""Can this installation work? Each finding says what was found and, if need be, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from packaging.requirements import Requirement
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from coordinator.embedded import OLDEST_REDIS, Embedded, connect, redis_url, server_version
from coordinator.errors import CoordinatorError
from coordinator.ledger import Ledger
from coordinator.machine.processes import Processes
from coordinator.machine.programs import REDIS
from coordinator.settings import Settings, load

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

OK, NOTE, MISSING = "ok", "note", "missing"

DISTRIBUTION = "celery-coordinator"
OLDEST_PYTHON = (3, 11)

#: Free bytes below which starting makes no sense, and below which it is worth a word.
DISK_NEEDED, DISK_WANTED = 200_000_000, 2_000_000_000

#: Seconds to wait for a server or for workers.
PATIENCE = 3.0


@dataclass(frozen=True)
class Finding:
    """One checked fact.

    Attributes:
        name: what was checked.
        state: ``ok``, ``note`` (works, but worth knowing) or ``missing`` (cannot work).
        found: what was found.
        remedy: what to do, empty when it is ok.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def examine(name: str, load_app: Callable[[], Any]) -> list[Finding]:
    """Return the findings about this machine and installation, in the order they build on each
    other.

    Args:
        name: the Celery app as ``celery -A`` takes it.
        load_app: returns the app, or raises ``CoordinatorError``.
    """
    findings = [_python(), *_packages()]
    try:
        app = load_app()
        settings = load(app.conf)
        # Those of a coordinated app know its broker, where the ledger is.
        settings = getattr(getattr(app, "coordination", None), "settings", settings)
    except CoordinatorError as error:
        remedy = "correct it, or name another app with -A; the checks that need it were left out"
        return [*findings, Finding("app and settings", MISSING, str(error), remedy)]
    findings.append(Finding("app and settings", OK, f"{name}, {len(settings.queues)} queues"))
    if settings.observing and hasattr(app, "coordination"):
        return [*findings, *_observing(app.coordination.work_queue)]
    findings += [_folder(settings.data_dir), _disk(settings.data_dir), _database(settings)]
    findings += _redis(app, settings)
    return findings


def _observing(work_queue: WorkQueue) -> Iterator[Finding]:
    # It opens no ledger and no database, so whether these would work says nothing.
    remedy = "coordinator conflicts tells what would have waited"
    yield Finding("mode", NOTE, "observe: nothing is enforced", remedy)
    try:
        found = work_queue.get_conflicts()
    except CoordinatorError as error:
        yield Finding("Redis", MISSING, str(error), "start it, or correct coordinator_redis_url")
    else:
        yield Finding("Redis", OK, f"keeps the marks; {found.runs} runs seen so far")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", OK, found)
    return Finding("Python", MISSING, found, "install Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        remedy = (
            f"install it (make install, or pip install {DISTRIBUTION}) to have versions checked"
        )
        yield Finding("packages", NOTE, f"{DISTRIBUTION} runs from its source folder", remedy)
        return
    wrong = []
    requirements = [Requirement(item) for item in required]
    needed = [
        item for item in requirements if not item.marker or item.marker.evaluate({"extra": ""})
    ]
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is not installed")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement} is needed, {version} is installed")
    if wrong:
        yield Finding("packages", MISSING, "; ".join(wrong), "make install, or pip install them")
    else:
        yield Finding("packages", OK, f"{len(needed)} direct ones as required")


def _folder(data_dir: Path) -> Finding:
    folder = data_dir.resolve()
    if os.access(_existing(folder), os.W_OK | os.X_OK) and _existing(folder).is_dir():
        return Finding(
            "data folder", OK, f"{folder}" + ("" if folder.exists() else " (to be made)")
        )
    remedy = "give this user the right to write, or choose another with COORDINATOR_DATA_DIR"
    return Finding("data folder", MISSING, f"{folder} cannot be written", remedy)


def _disk(data_dir: Path) -> Finding:
    free = shutil.disk_usage(_existing(data_dir.resolve())).free
    found = f"{free / 1e9:.1f} GB free"
    remedy = "free some, or choose another data folder with COORDINATOR_DATA_DIR"
    if free < DISK_NEEDED:
        return Finding("disk", MISSING, found, remedy)
    return (
        Finding("disk", OK, found) if free >= DISK_WANTED else Finding("disk", NOTE, found, remedy)
    )


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _database(settings: Settings) -> Finding:
    try:
        url = make_url(settings.store_url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            return _sqlite(url, shown)
        options = (
            {"connect_timeout": int(PATIENCE)} if url.get_backend_name() == "postgresql" else {}
        )
        engine = create_engine(url, connect_args=options)
        try:
            with engine.connect() as connection:
                # Rolled back with the connection: it asks for the right to write and leaves
                # nothing.
                connection.execute(text("CREATE TABLE coordinator_check (number INTEGER)"))
                connection.rollback()
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        remedy = "start the database, grant the rights, or correct COORDINATOR_DATABASE_URL"
        return Finding("database", MISSING, _first_line(error), remedy)
    return Finding("database", OK, shown)


def _sqlite(url: URL, shown: str) -> Finding:
    file = Path(url.database) if url.database and url.database != ":memory:" else None
    if file is None:
        remedy = "name a file, or leave COORDINATOR_DATABASE_URL out"
        return Finding("database", MISSING, "SQLite in memory is another one per process", remedy)
    if not file.exists():
        folder = _existing(file.resolve().parent)
        if os.access(folder, os.W_OK | os.X_OK):
            return Finding("database", OK, f"{shown} (to be made)")
        remedy = "give this user the right to write, or set COORDINATOR_DATABASE_URL"
        return Finding("database", MISSING, f"{folder} cannot be written", remedy)
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"timeout": PATIENCE})
    try:
        with engine.connect() as connection:
            # Takes the right to write, as every writer must, and gives it back.
            connection.execute(text("BEGIN IMMEDIATE"))
            connection.execute(text("ROLLBACK"))
    finally:
        engine.dispose()
    return Finding("database", OK, shown)


def _redis(app: Any, settings: Settings) -> Iterator[Finding]:
    try:
        url = redis_url(settings)
        if settings.embedded and not Embedded(settings.data_dir).is_running():
            if _is_supervised(settings.data_dir):
                remedy = "wait a moment for its start, or: coordinator restart redis"
                yield Finding("Redis", MISSING, "embedded, does not answer", remedy)
                return
            server = Embedded(settings.data_dir).server()
            version = ".".join(map(str, server_version(server)))
            found = f"embedded, not started (redis-server {version})"
            yield Finding("Redis", NOTE, found, "it starts with: coordinator up")
            yield _broker(app, url, None)
            return
    except CoordinatorError as error:
        yield Finding("Redis", MISSING, str(error), "do what it says")
        return
    try:
        info = _info(url)
    except (redis.exceptions.RedisError, CoordinatorError) as error:
        remedy = "start Redis, or correct COORDINATOR_REDIS_URL"
        yield Finding("Redis", MISSING, _first_line(error), remedy)
        yield _broker(app, url, None)
        return
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS:
        yield Finding("Redis", OK, f"{version}{', embedded' if settings.embedded else ''}")
    else:
        yield Finding("Redis", MISSING, version, "Redis 6.2 or newer is needed")
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        yield Finding("Redis memory", OK, policy)
    else:
        remedy = "set maxmemory-policy noeviction: evicted keys would be forgotten locks and jobs"
        yield Finding("Redis memory", MISSING, f"maxmemory-policy {policy}", remedy)
    broker = _broker(app, url, str(info["run_id"]))
    yield broker
    if broker.state == OK:
        yield _ledger(url, settings)
        yield _workers(app)


def _is_supervised(data_dir: Path) -> bool:
    try:
        return any(process.name == REDIS for process in Processes(data_dir).all())
    except CoordinatorError:
        return False


def _ledger(url: str, settings: Settings) -> Finding:
    ledger = Ledger(url, settings.key_prefix, patience=PATIENCE)
    try:
        restoring, epoch = ledger.restoring(), ledger.epoch()
    except CoordinatorError as error:
        return Finding("ledger", MISSING, _first_line(error), "start Redis")
    finally:
        ledger.pool.disconnect()
    if restoring is not None:
        entered, of, awaited = restoring
        found = f"being restored: {entered:,} of {of:,} jobs entered, {awaited} workers awaited"
        return Finding("ledger", NOTE, found, "it opens by itself")
    if epoch is None:
        return Finding("ledger", NOTE, "not open yet", "the first worker or producer opens it")
    return Finding("ledger", OK, f"open, epoch {epoch}")


def _info(url: str) -> dict[str, Any]:
    with connect(url, PATIENCE) as client:
        return dict(client.info())


def _broker(app: Any, url: str, run_id: str | None) -> Finding:
    broker = app.conf.broker_write_url or app.conf.broker_url or ""
    remedy = "leave broker_url out, or set COORDINATOR_REDIS_URL to the same Redis and database"
    if not str(broker).startswith(("redis", "unix")):
        return Finding("broker", MISSING, "not a Redis", remedy)
    if broker == url:
        return Finding("broker", OK, "the same Redis as the ledger")
    try:
        same = run_id is not None and _info(broker)["run_id"] == run_id
    except (redis.exceptions.RedisError, CoordinatorError) as error:
        return Finding("broker", MISSING, _first_line(error), remedy)
    if same and _database_number(broker) == _database_number(url):
        return Finding("broker", OK, "the same Redis as the ledger")
    return Finding("broker", MISSING, "another Redis, or another database of it", remedy)


def _database_number(url: str) -> int:
    with connect(url, PATIENCE) as client:
        return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _workers(app: Any) -> Finding:
    answers = app.control.ping(timeout=PATIENCE / 3)
    names = sorted(name for answered in answers or [] for name in answered)
    if names:
        return Finding("workers", OK, ", ".join(names))
    remedy = "start them: coordinator up, or celery -A APP worker"
    return Finding("workers", NOTE, "none answers", remedy)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

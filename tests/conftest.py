"""Real servers for the tests: one Redis and one PostgreSQL per test process, emptied for every test."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis

from tests.helpers import absent, eventually, free_port, redis_executable, running

# Two test processes share two cores: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own installation out of the tests, and the tests out of it."""
    for name in [name for name in os.environ if name.startswith("COORDINATOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on loopback, for the whole test process: the URL of its database 0.

    One port for all tests: Celery keeps connection pools in its module-level app, and a new port
    per test would leave them pointing at a server that is gone.
    """
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    command: list[str | Path] = [
        redis_executable(),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        folder,
    ]
    options = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
    with running(*command, *options, log=folder / "redis.log", grace=0) as process:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url) as client:

            def answers() -> bool:
                assert process.poll() is None, (folder / "redis.log").read_text()
                try:
                    return client.ping() is True
                except redis.ConnectionError:
                    return False

            eventually(answers)
            # The port was free a moment ago; somebody else's server must not be flushed.
            assert client.info("server")["process_id"] == process.pid
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty Redis; it answers in ``str``."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@dataclass(frozen=True)
class _Postgres:
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


def _postgres_folder() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[_Postgres]:
    programs = _postgres_folder()
    if programs is None:
        message = "no PostgreSQL on this machine (on Debian: apt-get install postgresql)"
        absent(message, "REQUIRE_POSTGRES")
    # The server refuses to run as root, and pytest's folders are closed to other users.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if user:
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, log, port = folder / "data", folder / "log", free_port()
        create: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
        ]
        with running(
            *create, "-E", "UTF8", "--locale=C", cwd=folder, user=user, log=log
        ) as process:
            assert process.wait(60) == 0, log.read_text()
        listen: list[str | Path] = [
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "-k",
            folder,
            "-c",
            "fsync=off",
        ]
        with running(
            programs / "postgres", "-D", data, *listen, cwd=folder, user=user, log=log
        ) as process:
            server = _Postgres(port)

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    with psycopg.connect(server.url("postgres")):
                        return True
                except psycopg.OperationalError:
                    return False

            eventually(answers, timeout=30)
            yield server
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(_postgres_server: _Postgres) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database on a real PostgreSQL; mark the test ``postgres``."""
    database = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(_postgres_server.url("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{database}"'.encode())
        yield _postgres_server.url(database).replace("postgresql:", "postgresql+psycopg:")
        connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())

"""What must not get in, and what must not get out: pickles, and passwords."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from celery import Celery

from coordinator import coordinate
from coordinator.errors import InvalidSetting, InvalidValue, masked
from coordinator.settings import Settings, load
from coordinator.work_queue import WorkQueue
from tests.helpers import ROOT, eventually, free_port, redis_executable, running, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

SECRET = "swordfish-1848"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_serializer", "pickle"),
        ("result_serializer", "pickle"),
        ("event_serializer", "application/x-python-serialize"),
        ("accept_content", ["json", "pickle"]),
        ("result_accept_content", ["pickle"]),
    ],
)
def test_pickle_is_refused_when_the_configuration_is_read(
    redis_url: str, name: str, value: Any
) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update({name: value})
    coordinate(app)
    with pytest.raises(InvalidSetting, match=f"{name}: .*json: .* could run code in every worker"):
        app.conf.get("broker_url")


def test_a_single_call_with_pickle_is_refused(alone: Installation) -> None:
    with pytest.raises(InvalidValue, match="serializer: 'pickle' is not allowed: json"):
        alone.task("play").apply_async([], {"model": "m"}, serializer="pickle")
    assert alone.work_queue.ledger.counts() == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"rediss://user:{SECRET}@host", "rediss://user:***@host"),
        (f"at 'postgresql+psycopg://a:{SECRET}@h/d' no", "at 'postgresql+psycopg://a:***@h/d' no"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("a: b@c", "a: b@c"),
        # What should have been encoded.
        (f"redis://:{SECRET}/x@host/0", "redis://:***@host/0"),
        (f"redis://:x@{SECRET}@host/0", "redis://:***@host/0"),
        (f"redis://:it's-{SECRET}@host", "redis://:***@host"),
        (f"redis://host/0?password={SECRET}&db=1", "redis://host/0?password=***&db=1"),
        (f"rediss://host?ssl_password={SECRET}", "rediss://host?ssl_password=***"),
        (f"postgresql://h/d?sslpassword={SECRET}", "postgresql://h/d?sslpassword=***"),
        (f"no: host=h password={SECRET} port=1", "no: host=h password=*** port=1"),
        (f'{{"url":"redis://:{SECRET}@h","by":"a@b"}}', '{"url":"redis://:***@h","by":"a@b"}'),
    ],
)
def test_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_errors_of_settings_show_no_password(tmp_path: Path) -> None:
    url = f"amqp://user:{SECRET}@{'long-' * 30}host"
    app = Celery("shop", broker=url, set_as_current=False)
    coordinate(app)
    with pytest.raises(InvalidSetting) as wrong:
        app.conf.get("broker_url")
    assert SECRET not in str(wrong.value)
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(coordinator_redis_url=f"redis://:{SECRET}@127.0.0.1:2/0")
    coordinate(app)
    with pytest.raises(InvalidSetting) as other:
        app.conf.get("broker_url")
    assert SECRET not in str(other.value)
    for name in ("DATABASE_URL", "FLOWER_URL"):
        value = f"nonsense://user:{SECRET}@host/x"
        with pytest.raises(InvalidValue) as third:
            WorkQueue(
                load(environ={f"COORDINATOR_{name}": value, "COORDINATOR_DATA_DIR": str(tmp_path)})
            ).store.upgrade()
        assert SECRET not in str(third.value)


@pytest.mark.parametrize("text", [f"{SECRET}/x", f"{SECRET}?x", f"{SECRET}#x"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(text: str) -> None:
    url = f"redis://:{text}@127.0.0.1:1/0"
    allowed = "a URL with a number as its port; .* of a password are written %2F"
    with pytest.raises(InvalidSetting, match=f"coordinator_redis_url: .*{allowed}") as setting:
        load({"coordinator_redis_url": url})
    app = Celery("shop", broker=url, set_as_current=False)
    coordinate(app)
    with pytest.raises(InvalidSetting, match=f"broker_url: .*{allowed}") as broker:
        app.conf.get("broker_url")
    for error in (setting.value, broker.value):
        assert SECRET not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("name", ["flower_url", "console_url"])
def test_a_link_with_a_password_is_refused(name: str) -> None:
    allowed = "a URL without a password: everybody who may look at the console sees it"
    with pytest.raises(InvalidSetting, match=f"coordinator_{name}: .*{allowed}") as wrong:
        load({f"coordinator_{name}": f"http://ann:{SECRET}@flower:5555"})
    assert SECRET not in str(wrong.value)


def test_settings_show_no_secret_of_theirs() -> None:
    settings = load(
        {
            "coordinator_redis_url": f"redis://:{SECRET}@h",
            "coordinator_database_url": f"postgresql+psycopg://u:{SECRET}@h/d",
            "coordinator_alerts": {"webhook": f"https://hooks.example/{SECRET}"},
        }
    )
    assert settings.alerts.webhook is not None
    assert SECRET not in repr(settings)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A Redis that wants a password: its URL with it."""
    port = free_port()
    config = tmp_path / "redis.conf"
    config.write_text(f'port {port}\nbind 127.0.0.1\nrequirepass {SECRET}\nsave ""\n')
    with running(redis_executable(), config, cwd=tmp_path, grace=0):
        with redis.Redis(port=port, password=SECRET) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            eventually(answers)
        yield f"redis://:{SECRET}@127.0.0.1:{port}/0"


@pytest.mark.timeout(240)
def test_no_command_and_no_log_shows_a_password(guarded: str, tmp_path: Path) -> None:
    env = {
        "COORDINATOR_REDIS_URL": guarded,
        "COORDINATOR_DATABASE_URL": f"sqlite:///{tmp_path}/own.db",
        "COORDINATOR_DATA_DIR": str(tmp_path),
    }
    log = tmp_path / "worker.log"
    command = ["python", "-m", "celery", "-A", "tasks", "worker", "-Q", "maintenance", "-c", "1"]
    with running(*command, "-l", "DEBUG", env=env, log=log):
        eventually(lambda: " ready." in log.read_text(), timeout=60)
        told = log.read_text()
        wrong = {**env, "COORDINATOR_REDIS_URL": guarded.replace("127.0.0.1:", "127.0.0.1:1")}
        refused = {**env, "COORDINATOR_REDIS_URL": guarded.replace(SECRET, SECRET + "x")}
        calls = [(env, "check"), (env, "status"), (wrong, "check"), (refused, "check")]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "coordinator", word],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for settings, word in calls
        ]
        for process in started:
            told += process.communicate(timeout=100)[0]
    assert len(told) > 2000
    assert SECRET not in told + log.read_text()


@pytest.mark.timeout(240)
def test_neither_inspect_nor_the_list_of_processes_shows_a_secret(
    guarded: str, open_installation: type[Installation], tmp_path: Path
) -> None:
    hook = f"https://hooks.example/{SECRET}"
    conf = {"coordinator_redis_url": guarded, "coordinator_alerts": {"webhook": hook}}
    site = open_installation(guarded, tmp_path, conf)
    with site.worker() as worker:
        # What Flower's page of a worker shows, too.
        for command in ("conf", "dump_conf"):
            (answer,) = site.app.control.broadcast(command, reply=True, timeout=20, limit=1)
            shown = answer[worker.node]
            assert shown["coordinator_redis_url"].startswith("redis://:***@127.0.0.1:")
            assert shown["coordinator_alerts"] == {"webhook": "***"}
            assert SECRET not in json.dumps(answer)
        # The guard has a session of its own.
        processes = [*session_of(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        started = [" ".join(process.cmdline()) for process in processes]
        assert any("guard" in line for line in started), started
        assert not [line for line in started if SECRET in line]
    site.work_queue.ledger.pool.disconnect()


def test_the_database_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:{free_port()}/none"
    queue = WorkQueue(Settings(database_url=url, data_dir=tmp_path))
    with pytest.raises(Exception, match="cannot be used") as away:
        queue.store.upgrade()
    assert SECRET not in str(away.value)

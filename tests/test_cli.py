"""The command line: which app, how errors look, exit codes, and what ``check`` finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner, Result

from coordinator.cli import main
from coordinator.embedded import Embedded
from coordinator.machine.check import MISSING, NOTE, OK, Finding, examine
from tests.helpers import ROOT

APP = ("-A", "tests.plain_app")


def python(
    *arguments: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def checked(app: Celery) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine("app", lambda: app)}


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> Celery:
    app = Celery("checked", broker=redis_url, set_as_current=False)
    app.conf.update(coordinator_redis_url=redis_url, coordinator_data_dir=str(tmp_path))
    return app


def verbs(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, *before, name)
        else:
            yield *before, name


def test_every_verb_has_help_and_answers_in_json_if_asked() -> None:
    assert set(main.commands) >= {"up", "check", "restart"}
    calls = list(verbs(main))
    for verb in calls:
        shown = call(*verb, "--help")
        assert shown.exit_code == 0
        # An export is JSON in any case.
        assert "--json" in shown.output or verb[-1] == "export"


def test_a_wrong_call_is_told_with_what_was_meant() -> None:
    shown = call("chek")
    assert shown.exit_code == 2
    assert "Did you mean 'check'?" in shown.output
    assert call("up", "--until-generation", "0").exit_code == 2


def test_an_error_is_one_line_on_standard_error() -> None:
    shown = call("-A", "tests.no_such_app", "check", "--json")
    assert shown.exit_code == 1
    shown = call("-A", "tests.no_such_app", "restart", "beat")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == (
        "coordinator: the Celery app 'tests.no_such_app' cannot be loaded: "
        "ModuleNotFoundError: No module named 'tests.no_such_app'\n"
    )


def test_restart_without_up_says_so(tmp_path: Path) -> None:
    data = str(tmp_path)
    shown = python("coordinator", *APP, "restart", "beat", COORDINATOR_DATA_DIR=data)
    assert shown.returncode == 1
    assert shown.stderr == f"coordinator: coordinator up does not run on {data}: start it first\n"


def test_the_app_is_found_in_the_current_folder_or_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from celery import Celery\napp = Celery('mine')\n")
    root = {"PYTHONPATH": str(ROOT), "COORDINATOR_DATA_DIR": str(tmp_path)}
    named = python("coordinator", "check", "--json", cwd=tmp_path, COORDINATOR_APP="mine", **root)
    found = {finding["name"]: finding for finding in json.loads(named.stdout)["findings"]}
    assert found["app and settings"]["found"] == "mine, 4 queues"
    # No app at all is a wrong call. The module that stands for "tasks" elsewhere must not be seen.
    bare = {"PYTHONPATH": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "coordinator").symlink_to(ROOT / "coordinator")
    nothing = python("coordinator", "check", cwd=tmp_path / "empty", **bare)
    assert nothing.returncode == 2
    assert "name it with -A or in COORDINATOR_APP" in nothing.stderr


def test_celerys_own_command_line_has_the_verbs(tmp_path: Path) -> None:
    # As the entry point does once the distribution is installed.
    code = (
        "from importlib.metadata import EntryPoint; from click_plugins import with_plugins;"
        "from celery.bin.celery import celery, main;"
        "point = EntryPoint('coordinator', 'coordinator.cli:main', 'celery.commands');"
        "with_plugins([point])(celery); main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *APP, "coordinator", "check", "--json"],
        env={**os.environ, "COORDINATOR_DATA_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    found = {finding["name"]: finding for finding in json.loads(shown.stdout)["findings"]}
    assert found["app and settings"]["found"] == "tests.plain_app, 4 queues"


def test_up_until_a_generation_needs_a_summary(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from celery import Celery\napp = Celery('mine')\n")
    shown = python(
        "coordinator", "-A", "mine", "up", "--until-generation", "1",
        cwd=tmp_path, PYTHONPATH=str(ROOT), COORDINATOR_DATA_DIR=str(tmp_path / "data"),
    )  # fmt: skip
    assert shown.returncode == 2
    assert "coordinator_summary" in shown.stderr
    assert not (tmp_path / "data").exists()


def test_the_command_line_does_not_load_celery_for_itself() -> None:
    # Celery loads it with each of its commands, every worker's included.
    code = "import sys, coordinator.cli; print({'celery', 'sqlalchemy', 'rich'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "set()\n"


def test_check_of_a_working_installation(app: Celery) -> None:
    found = checked(app)
    assert {item.state for item in found.values()} <= {OK, NOTE}
    for name in ("Python", "data folder", "database", "Redis", "Redis memory", "broker"):
        assert found[name].state == OK, found[name]
    assert (found["workers"].state, found["workers"].found) == (NOTE, "none answers")


def test_check_leaves_nothing_behind(app: Celery, tmp_path: Path) -> None:
    app.conf.coordinator_redis_url = app.conf.broker_url
    checked(app)
    assert list(tmp_path.iterdir()) == []


def test_every_failing_line_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = Celery("broken", broker="amqp://127.0.0.1:1", set_as_current=False)
    app.conf.update(
        coordinator_redis_url="redis://127.0.0.1:1/0",
        coordinator_database_url="postgresql+psycopg://x:secret@127.0.0.1:1/none",
        coordinator_data_dir=str(tmp_path / "file" / "data"),
    )
    found = checked(app)
    missing = {name for name, item in found.items() if item.state == MISSING}
    assert missing == {"Redis", "broker", "database", "data folder"}
    assert all(found[name].remedy for name in missing)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"coordinator_lease_second": 3}, "did you mean 'coordinator_lease_seconds'"),
        ({"coordinator_lease_seconds": 0}, "a number from 1"),
    ],
)
def test_wrong_settings_are_a_finding(settings: dict[str, Any], told: str) -> None:
    app = Celery("wrong", set_as_current=False)
    app.conf.update(settings)
    last = examine("wrong", lambda: app)[-1]
    assert last.state == MISSING
    assert told in last.found


def test_another_database_of_the_same_redis_is_not_the_ledgers(app: Celery, redis_url: str) -> None:
    app.conf.broker_url = app.conf.broker_write_url = redis_url.replace("127.0.0.1", "localhost")
    assert checked(app)["broker"].state == OK
    app.conf.broker_url = app.conf.broker_write_url = redis_url.removesuffix("/0") + "/1"
    assert checked(app)["broker"].state == MISSING


def test_an_evicting_redis_is_refused(app: Celery, redis_client: Any) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = checked(app)["Redis memory"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert (found.state, found.found) == (MISSING, "maxmemory-policy allkeys-lru")


def test_databases_that_cannot_be_written(app: Celery, tmp_path: Path) -> None:
    app.conf.coordinator_database_url = "sqlite://"
    assert checked(app)["database"].state == MISSING
    (tmp_path / "text.db").write_text("no database at all, but long enough to be taken for one" * 9)
    app.conf.coordinator_database_url = f"sqlite:///{tmp_path / 'text.db'}"
    assert "not a database" in checked(app)["database"].found
    app.conf.coordinator_database_url = "nosuch://here"
    assert checked(app)["database"].state == MISSING


@pytest.mark.postgres
def test_postgresql_is_asked_for_the_right_to_write(app: Celery, postgres_url: str) -> None:
    app.conf.coordinator_database_url = postgres_url
    assert checked(app)["database"].state == OK
    assert checked(app)["database"].state == OK


def test_an_embedded_redis_that_is_not_started_is_only_a_note(tmp_path: Path) -> None:
    app = Celery("embedded", broker=Embedded(tmp_path).url, set_as_current=False)
    app.conf.coordinator_data_dir = str(tmp_path)
    found = checked(app)
    assert found["Redis"].state == NOTE
    assert "coordinator up" in found["Redis"].remedy
    assert found["broker"].state == OK

"""``coordinator db``: tables, retention and the log, from the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coordinator.cli import main
from coordinator.schema import HEAD
from coordinator.store import Store
from tests.test_store import NOW, Stream, job


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "app.db"
    monkeypatch.setenv("COORDINATOR_DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("COORDINATOR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COORDINATOR_TABLE_PREFIX", "ml_")
    return path


@pytest.fixture
def store(database: Path) -> Store:
    store = Store(f"sqlite:///{database}", "ml_")
    store.upgrade()
    store.insert([job("a"), job("b")])
    store.record(Stream().run("a"))
    return store


def db(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ("-A", "tests.plain_app", "db", *arguments), input=answer)


def test_upgrade_makes_the_tables_and_status_tells(database: Path) -> None:
    assert db("status").exit_code == 1
    first = json.loads(db("upgrade", "--json").stdout)
    assert (first["before"], first["now"]) == (None, HEAD)
    again = json.loads(db("upgrade", "--json").stdout)
    assert again["before"] == HEAD
    status = json.loads(db("status", "--json").stdout)
    assert (status["up_to_date"], status["jobs"]) == (True, {})
    with sqlite3.connect(database) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    connection.close()
    assert "ml_coordinator_jobs" in names
    assert "coordinator_jobs" not in names


def test_prune_counts_asks_removes_and_is_noted(store: Store) -> None:
    counted = json.loads(db("prune", "--dry-run", "--json").stdout)
    assert counted["removed"] == {"events": 4, "jobs": 1, "poison": 0, "workers": 0}
    assert db("prune", answer="n\n").exit_code == 1
    assert len(list(store.export())) == 4, "no is no"
    done = json.loads(db("prune", "--yes", "--reason", "space", "--json").stdout)
    assert done["removed"] == counted["removed"]
    (note,) = store.audit()
    assert (note["event_type"], note["why"]) == ("pruned", "space")
    assert "@" in note["who"]
    assert note["data"]["jobs"] == 1
    assert store.counts() == {"waiting": 1}
    assert db("prune", "--log-days", "-1").exit_code == 2


def test_export_writes_one_json_object_per_line(store: Store) -> None:
    lines = [json.loads(line) for line in db("export").stdout.splitlines()]
    assert [line["event_type"] for line in lines] == [
        "submitted",
        "dispatched",
        "started",
        "completed",
    ]
    assert db("export", "--since", "1d").stdout == ""
    assert (
        len(db("export", "--since", "2023-11-14", "--until", "2023-11-15").stdout.splitlines()) == 4
    )
    assert lines[0]["at"] >= NOW
    assert db("export", "--since", "yesterday").exit_code == 2
    assert store.counts()


def test_a_database_that_is_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COORDINATOR_DATABASE_URL", f"sqlite:///{tmp_path}/none/app.db")
    shown = db("status")
    assert shown.exit_code == 1
    assert shown.stderr.startswith("coordinator: the database sqlite:///")
    assert len(shown.stderr.splitlines()) == 1

"""The tables: what migrations make equals what the code declares, and forbids what must not be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from coordinator.errors import InvalidSetting, Refused
from coordinator.schema import HEAD, schema, views
from coordinator.states import State, status
from coordinator.store import Store
from tests.helpers import ROOT

#: The columns that people's SQL may rely on.
CONTRACT = {
    "jobs": "job_id job_type model required_models status queue_position blocked_by_job_id "
    "conflict_reason queued_at started_at",
    "workflow_executions": "required_models current_step_model blocked_by_job_id",
    "workflow_standing": "execution_id state current_step current_job_id finished_at",
    "job_queue_state": "active_job_id active_job_type active_models started_at",
    "job_queue_log": "job_id job_type event_type conflict_reason created_at",
}

JOB = {
    "job_id": "a",
    "task": "tasks.play",
    "queue": "selfplay",
    "required_models": [],
    "needs": [],
    "priority": 5,
    "sequence": 1,
    "state": "waiting",
    "message": "{}",
    "args_repr": "()",
    "kwargs_repr": "{}",
    "queued_at": 1_700_000_000_123,
    "max_retries": 3,
}


@contextmanager
def opened(path: Path) -> Iterator[sa.Connection]:
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", lambda own, _: own.execute("PRAGMA foreign_keys = ON"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def definitions(path: Path) -> dict[str, list[str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'view'"
    with opened(path) as connection:
        return {
            # The order of the constraints is the one thing that may differ.
            name: sorted(" ".join(sql.split()).removesuffix(" )").split(", CONSTRAINT "))
            for name, sql in connection.execute(sa.text(query))
            if "schema_version" not in name
        }


def foreign(name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    Store(f"sqlite:///{path}").upgrade()
    return path


def insert(path: Path, table: sa.Table, **row: object) -> None:
    with opened(path) as connection:
        connection.execute(table.insert(), row)


@pytest.mark.parametrize("prefix", ["", "ml_"])
def test_the_migrations_make_the_tables_that_the_code_declares(tmp_path: Path, prefix: str) -> None:
    declared, migrated = tmp_path / "declared.db", tmp_path / "migrated.db"
    engine = sa.create_engine(f"sqlite:///{declared}")
    schema(prefix).metadata.create_all(engine)
    engine.dispose()
    Store(f"sqlite:///{migrated}", prefix).upgrade()
    assert definitions(migrated) == definitions(declared)
    assert all(name.startswith(f"{prefix}coordinator_") for name in definitions(migrated))


def test_the_head_that_processes_compare_with_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "coordinator" / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


@pytest.mark.parametrize("prefix", ["A", "a-b", "1a", "a" * 21, "a.b"])
def test_a_prefix_that_cannot_begin_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidSetting, match="table_prefix"):
        schema(prefix)


def test_the_views_have_the_promised_names_and_columns(path: Path) -> None:
    with opened(path) as connection:
        for view, columns in CONTRACT.items():
            names = {column["name"] for column in sa.inspect(connection).get_columns(view)}
            assert set(columns.split()) <= names
    assert set(CONTRACT) == set(views.NAMES)


def test_the_page_has_the_columns_of_the_views(path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| an? [^|]+ \| (.+) \|$", page, re.MULTILINE))
    # Of the fifth the other view of executions is made.
    assert set(told) == set(CONTRACT) - {"workflow_standing"}
    with opened(path) as connection:
        for view, columns in told.items():
            names = [column["name"] for column in sa.inspect(connection).get_columns(view)]
            assert re.findall(r"`(\w+)`", columns) == names, view


def test_the_view_speaks_of_states_like_the_code(path: Path) -> None:
    for state in State:
        for retries in (0, 2):
            end = (
                {"finished_at": 1}
                if state.value in "completed failed unprocessable canceled"
                else {}
            )
            row = {**JOB, **end, "job_id": f"{state} {retries}", "state": state.value}
            insert(path, schema().jobs, **row, retries=retries, token=1, worker="w", due_at=1)
    with opened(path) as connection:
        query = sa.text("SELECT state, retries, status, detail FROM jobs")
        for state, retries, *shown in connection.execute(query).all():
            assert tuple(shown) == status(State(state), retries)


def test_the_views_show_times_as_text(path: Path) -> None:
    insert(path, schema().jobs, **JOB)
    with opened(path) as connection:
        row = connection.execute(sa.text("SELECT queued_at, started_at FROM jobs")).one()
    assert tuple(row) == ("2023-11-14T22:13:20.123Z", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_id": ""},
        {"task": ""},
        {"queue": ""},
        {"state": "sleeping"},
        {"state": "completed"},
        {"finished_at": 1},
        {"state": "running"},
        {"state": "running", "worker": "w"},
        {"state": "stopping", "token": 1},
        {"state": "dispatched"},
        {"state": "delayed"},
        {"priority": 10},
        {"priority": -1},
        {"attempts": -1},
        {"retries": -1},
        {"losses": -1},
        {"max_retries": -2},
        {"version": -1},
        {"epoch": -1},
        {"message": None},
    ],
    ids=str,
)
def test_the_database_forbids_a_job_that_must_not_be(path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        insert(path, schema().jobs, **{**JOB, **wrong})


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("totals", {"name": "completed", "queue": "q", "label": "", "value": -1}),
        ("settings", {"kind": "wish", "resource": "r", "set_by": "a", "reason": "", "set_at": 1}),
        ("epochs", {"id": 2, "epoch": 1}),
        ("epochs", {"id": 1, "epoch": -1}),
        ("job_models", {"job_id": "nobody", "model": "m"}),
    ],
    ids=str,
)
def test_the_database_forbids_other_rows_that_must_not_be(
    path: Path, table: str, row: dict[str, object]
) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        insert(path, schema().metadata.tables[f"coordinator_{table}"], **row)


def test_a_database_of_an_application_is_adopted_beside_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "application.db"
    tables = [
        foreign(name) for name in ("celery_taskmeta", "alembic_version", "settings", "events")
    ]
    with opened(path) as connection:
        for table in tables:
            table.create(connection)
            connection.execute(table.insert(), {"id": 7})
    store = Store(f"sqlite:///{path}")
    assert store.upgrade().current is None
    assert store.status().up_to_date
    with opened(path) as connection:
        for table in tables:
            assert connection.scalars(sa.select(table)).all() == [7]


def test_a_foreign_table_with_the_name_of_a_view_asks_for_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "application.db"
    with opened(path) as connection:
        foreign("jobs").create(connection)
    with pytest.raises(Refused, match="table prefix"):
        Store(f"sqlite:///{path}").upgrade()
    assert set(definitions(path)) == {"jobs"}, "a refused upgrade leaves nothing behind"
    Store(f"sqlite:///{path}", "ml_").upgrade()
    assert "ml_coordinator_jobs" in definitions(path)


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    with opened(path) as connection:
        connection.execute(sa.text("UPDATE coordinator_schema_version SET version_num = '9999'"))
    store = Store(f"sqlite:///{path}")
    with pytest.raises(Refused, match="9999"):
        store.upgrade()
    assert store.status().current == "9999"

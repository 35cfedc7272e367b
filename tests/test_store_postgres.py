"""The store on a real PostgreSQL: the same contract, and what only a server can do to us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.errors import StoreUnavailable
from coordinator.schema import HEAD, schema, views
from coordinator.states import State, status
from coordinator.store import Store
from tests.helpers import eventually
from tests.test_schema import CONTRACT
from tests.test_store import NOW, StoreContract, Stream, job

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def make(url: str) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(**options: Any) -> Store:
        store = Store(url, **options)
        store.upgrade()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make: Callable[..., Store]) -> Store:
    return make()


@pytest.fixture
def server(url: str) -> Iterator[sa.Connection]:
    """A connection of the administrator, to another database of the same server."""
    engine = sa.create_engine(
        sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def shape(connection: sa.Connection, schema_name: str) -> dict[str, list[Any]]:
    """Return columns, constraints and indexes of a schema, as the server tells them."""
    asked = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = :name AND table_name LIKE 'coordinator%'",
        "constraints": "SELECT r.relname, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c "
        "JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace "
        "WHERE n.nspname = :name",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = :name",
    }
    return {
        kind: sorted(
            str(tuple(row)).replace(f"{schema_name}.", "")
            for row in connection.execute(sa.text(query), {"name": schema_name})
            if "schema_version" not in str(row)
        )
        for kind, query in asked.items()
    }


class TestPostgres(StoreContract):
    """Everything that holds on SQLite."""


def test_the_migrations_make_the_tables_that_the_code_declares(store: Store) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("CREATE SCHEMA declared")
        connection.exec_driver_sql("SET LOCAL search_path = declared")
        schema(dialect="postgresql").metadata.create_all(connection)
    with store.reading() as connection:
        migrated = shape(connection, "public")
        assert migrated == shape(connection, "declared")
        assert min(map(len, migrated.values())) > 10


def test_the_views_have_the_promised_columns_and_words(store: Store) -> None:
    store.insert([job("a", "m", retries=1)])
    store.record(Stream().run()[:3])
    with store.reading() as connection:
        for view, columns in CONTRACT.items():
            found = {column["name"] for column in sa.inspect(connection).get_columns(view)}
            assert set(columns.split()) <= found
        assert set(CONTRACT) == set(views.NAMES)
        query = "SELECT status, detail, queued_at, finished_at FROM jobs"
        shown = connection.execute(sa.text(query)).one()
    assert tuple(shown) == (*status(State.RUNNING, 1), "2023-11-14T22:13:20.000Z", None)


def test_a_server_that_comes_back_is_used_again(store: Store, server: sa.Connection) -> None:
    store.insert([job("a")])
    name = store.url.database
    assert name is not None
    server.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    end = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    server.execute(end, {"name": name})
    with pytest.raises(StoreUnavailable, match="not currently accepting connections"):
        store.insert([job("b")])
    with pytest.raises(StoreUnavailable):
        store.record(Stream().run())
    server.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert store.insert([job("b")]) == {"b"}
    assert store.known(["a", "b"]) == {"a", "b"}


def test_a_connection_that_was_cut_is_replaced_unseen(store: Store, server: sa.Connection) -> None:
    store.insert([job("a")])
    end = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    assert server.execute(end, {"name": store.url.database}).rowcount > 0
    assert store.insert([job("b")]) == {"b"}


def test_nobody_listens(store: Store) -> None:
    lonely = Store(str(store.url.set(port=1)), busy_timeout=2)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        lonely.insert([job("a")])


def test_upgraders_wait_for_the_one_that_has_the_lock(url: str) -> None:
    stores = [Store(url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        before = list(pool.map(lambda own: own.upgrade().current, stores))
    assert sorted(before, key=str) == [HEAD, HEAD, None]
    for store in stores:
        store.close()


def test_a_job_that_is_resubmitted_while_it_is_pruned_stays(store: Store) -> None:
    stream = Stream()
    store.insert([job("a")])
    store.record([*stream.run()[:3], stream.event("failed", state="failed", error="no")])
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def pruner_waits() -> bool:
        with store.reading() as connection:
            return bool(connection.scalar(waiting))

    with ThreadPoolExecutor(1) as pool:
        with store.writing() as connection:
            connection.execute(
                sa.update(store.schema.jobs).values(state="waiting", finished_at=None)
            )
            pruner = pool.submit(store.prune, at_ms=NOW + 40 * 24 * 3600 * 1000)
            eventually(pruner_waits)
        assert pruner.result().jobs == 0
    assert store.known(["a"]) == {"a"}

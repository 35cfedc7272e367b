"""The database: engines for SQLite and PostgreSQL, transactions, and errors in our own words."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from coordinator.errors import InvalidSetting, Refused, StoreUnavailable
from coordinator.schema import Schema, schema
from coordinator.store import forks
from coordinator.store.dialects import insert
from coordinator.store.redaction import Redactor

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

#: Serializes recorders on PostgreSQL, where writers do not exclude each other by themselves.
RECORDER_LOCK = "coordinator recorder"
UPGRADE_LOCK = "coordinator upgrade"

#: Ids in one SELECT; far below the most variables SQLite takes.
CHUNK = 1000

_BEGIN = "coordinator_begin"

#: Seconds between two tries for SQLite's write lock. Its own waiting begins with 1, 2, 5, 10, 15, 20 ms and
#: finds a lock that is free half of the time, a few milliseconds at once, only after several of these.
SPIN_LEAST, SPIN_MOST = 0.0002, 0.001

#: SQLite's pages in the WAL at which a writer brings them to the database file itself. The recorder does so far
#: earlier, so that producers do not pay for it; this is for when there is none.
CHECKPOINT_PAGES = 16_000

#: A row: columns by name, times in Unix milliseconds, JSON parsed.
Row: TypeAlias = dict[str, Any]

_T = TypeVar("_T")


class RowRefused(Refused):
    """The database forbids this value: a check, a key or a type. Trying again does not help."""


def chunks(items: Sequence[_T], size: int = CHUNK) -> Iterator[Sequence[_T]]:
    """Cut ``items`` into pieces of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))


def now_ms() -> int:
    """Return this machine's clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy and the drivers into ``StoreUnavailable`` and ``RowRefused``."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError) as error:
        raise RowRefused(f"the database refused a row: {error.orig}") from error
    except exc.StatementError as error:
        if not isinstance(error, exc.DBAPIError):
            raise RowRefused(f"the database cannot store a value: {error.orig}") from error
        text = str(error.orig).strip()
        if "no such table" in text or "UndefinedTable" in type(error.orig).__name__:
            raise StoreUnavailable(
                f"the database {shown} has no tables of this version: run 'coordinator db upgrade'"
            ) from error
        raise StoreUnavailable(f"the database {shown} cannot be used: {text}") from error
    except exc.SQLAlchemyError as error:
        raise StoreUnavailable(f"the database {shown} cannot be used: {error}") from error
    except (OverflowError, UnicodeError) as error:
        raise RowRefused(f"the database cannot store a value: {error}") from error


@dataclass(frozen=True)
class _Engines:
    """Three ways to begin, on one pool of connections; ``single`` has a pool of its own on SQLite."""

    reader: sa.Engine
    writer: sa.Engine
    single: sa.Engine


class Database:
    """One database, shared by all verbs of the store.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database (``postgresql://`` uses psycopg 3).
        table_prefix: first part of the name of every table and view.
        redact: regular expressions; what they match in arguments, errors, results and reasons is
            replaced before it is stored.
        busy_timeout: seconds to wait for a lock of another process, or for a connection.
        synchronous: SQLite's ``PRAGMA synchronous``: NORMAL survives the death of every process, FULL
            the death of the machine too.

    Raises:
        InvalidSetting: a URL, prefix or rule that cannot be one.
    """

    def __init__(
        self,
        url: str,
        table_prefix: str = "",
        *,
        redact: Iterable[str] = (),
        busy_timeout: float = 10.0,
        synchronous: str = "NORMAL",
    ) -> None:
        self.url = _parse(url)
        self.shown = self.url.render_as_string(hide_password=True)
        self.dialect = self.url.get_backend_name()
        self.schema: Schema = schema(table_prefix, self.dialect)
        self.redactor = Redactor(redact)
        self._busy_timeout = busy_timeout
        if synchronous.upper() not in ("NORMAL", "FULL", "EXTRA"):
            raise InvalidSetting("synchronous", synchronous, "NORMAL, FULL or EXTRA")
        self._synchronous = synchronous.upper()
        self._lock = threading.Lock()
        self._opened: _Engines | None = None
        self._abandoned: list[_Engines] = []
        forks.register(self)

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process, made with its first use."""
        return self._engines().reader

    def _engines(self) -> _Engines:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    engine = self._open()
                    single = (
                        self._open_single()
                        if self.dialect == "sqlite"
                        else engine.execution_options(isolation_level="AUTOCOMMIT")
                    )
                    self._opened = _Engines(
                        reader=engine,
                        writer=engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}),
                        single=single,
                    )
        return self._opened

    def close(self) -> None:
        """Close all connections; the next verb connects again."""
        if self._opened is not None:
            self._opened.reader.dispose()
            if self.dialect == "sqlite":
                self._opened.single.dispose()

    close_idle = close

    def forget(self) -> None:
        """Leave inherited connections alone after a fork; see ``forks``."""
        self._lock = threading.Lock()
        if self._opened is not None:
            # Kept for ever: even closing an inherited connection would harm the parent's.
            self._abandoned.append(self._opened)
            self._opened = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one moment of the database."""
        with translated(self.shown), forks.inside(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, lock: str | None = None) -> Iterator[sa.Connection]:
        """A transaction that writes; all or nothing.

        SQLite's takes the write lock at once: a reader that becomes a writer half-way is refused without
        waiting. On PostgreSQL ``lock`` names what only one transaction may do at a time.
        """
        with translated(self.shown), forks.inside(), self._engines().writer.begin() as connection:
            if lock and self.dialect == "postgresql":
                connection.execute(_ADVISORY_LOCK, {"name": f"{self.schema.prefix}{lock}"})
            yield connection

    @contextmanager
    def stating(self) -> Iterator[sa.Connection]:
        """A connection for a single statement, which is its own transaction: no BEGIN, no COMMIT."""
        with translated(self.shown), forks.inside(), self._engines().single.connect() as connection:
            yield connection

    def rows(self, query: sa.Select[Any]) -> list[Row]:
        """Return what a query finds, in a transaction of its own."""
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def upsert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Return this database's own INSERT, the one that knows ON CONFLICT."""
        return insert(self.dialect, table)

    def among(self, column: sa.Column[str], values: Sequence[str]) -> sa.ColumnElement[bool]:
        """Return whether a text column has one of the values (at most ``CHUNK``)."""
        if self.dialect == "sqlite":
            # One text whatever their number: the statement is built and parsed once.
            listed = sa.func.json_each(sa.literal(json.dumps(values), sa.Text))
            value: sa.ColumnClause[str] = sa.column("value", sa.Text)
            return column.in_(sa.select(value).select_from(listed))
        # One array, not a list of parameters: with hundreds of those PostgreSQL reads the whole table.
        return column == sa.any_(sa.literal(list(values), sa.ARRAY(sa.Text)))

    def state(self, statement: str, values: Any) -> int:
        """Run a statement that writes and is its own transaction; return the number of rows it touched."""
        if self.dialect == "sqlite":
            with translated(self.shown), forks.inside(), suppress(sqlite3.Error):
                # Past SQLAlchemy's connection, which would cost as much as the statement.
                pooled = self._engines().single.raw_connection()
                try:
                    touched = self._spin(pooled.dbapi_connection, statement, values)
                finally:
                    pooled.close()
                if touched is not None:
                    return touched
            # It failed: once more, where errors are translated.
        with self.stating() as connection:
            return connection.exec_driver_sql(statement, values).rowcount

    def _spin(self, raw: Any, statement: str, values: Any = ()) -> int | None:
        """Run a statement, looking often for SQLite's lock; None when it fails for good."""
        deadline = time.monotonic() + self._busy_timeout
        pause = SPIN_LEAST
        while True:
            try:
                return int(raw.execute(statement, values).rowcount)
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    return None
            except sqlite3.Error:
                return None
            time.sleep(pause)
            pause = min(pause * 1.2, SPIN_MOST)

    def _open(self) -> sa.Engine:
        if self.dialect == "sqlite":
            engine = self._open_sqlite()
            sa.event.listen(engine, "begin", self._begin)
            return engine
        try:
            return sa.create_engine(
                self.url,
                pool_size=5,
                max_overflow=10,
                pool_timeout=self._busy_timeout,
                pool_pre_ping=True,
                connect_args={"connect_timeout": max(2, int(self._busy_timeout))},
            )
        except ImportError as error:
            raise InvalidSetting(
                "database_url",
                self.shown,
                "usable once psycopg is installed (the extra 'postgres')",
            ) from error

    def _open_sqlite(self) -> sa.Engine:
        engine = sa.create_engine(
            self.url,
            pool_size=5,
            max_overflow=10,
            pool_timeout=self._busy_timeout,
            connect_args={"timeout": self._busy_timeout},
        )
        sa.event.listen(engine, "connect", self._configure)
        return engine

    def _open_single(self) -> sa.Engine:
        engine = self._open_sqlite()

        def leave_waiting_to_us(connection: sqlite3.Connection, _record: object) -> None:
            # For good, in connections of their own: two PRAGMAs around each statement would be a tenth of it.
            connection.execute("PRAGMA busy_timeout = 0")

        sa.event.listen(engine, "connect", leave_waiting_to_us)
        return engine

    def _configure(self, connection: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun by us alone; the driver's own habit begins them too late, as readers.
        connection.isolation_level = None
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Changing the mode does not wait for others by itself, as everything else does.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def restart_wal(self, connection: sa.Connection) -> None:
        """Let SQLite's WAL begin anew, if nobody reads or writes at this moment; never wait for it.

        Args:
            connection: of ``stating``, which does not wait for locks by itself.
        """
        connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)").all()

    def _begin(self, connection: sa.Connection) -> None:
        begin = connection.get_execution_options().get(_BEGIN, "BEGIN")
        if begin == "BEGIN IMMEDIATE":
            raw: Any = connection.connection.dbapi_connection
            raw.execute("PRAGMA busy_timeout = 0")
            try:
                if self._spin(raw, begin) is not None:
                    return
            finally:
                raw.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")
        connection.exec_driver_sql(begin)


_ADVISORY_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def _parse(url: str) -> sa.URL:
    allowed = "a SQLAlchemy URL that begins with sqlite:/// or postgresql://"
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        # Without the value: what cannot be parsed may be a password.
        raise InvalidSetting("database_url", "(not shown)", allowed) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidSetting("database_url", shown, allowed)
    if parsed.get_backend_name() == "sqlite" and (parsed.database or ":memory:") == ":memory:":
        raise InvalidSetting(
            "database_url", shown, "a file: other processes must see the same database"
        )
    return parsed

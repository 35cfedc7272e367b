"""Statements compiled once for a driver: building them anew would cost more than running them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from coordinator.schema import Schema
from coordinator.store.dialects import insert
from coordinator.store.entry import LOGGED
from coordinator.store.transitions import COLUMNS

#: A job's row as the recorder reads it: the columns that events change, and those the log and the measures need.
READ = ("job_id", "task", "queue", "model", "org", *COLUMNS)

#: Columns of a new row; see ``Submission.definition``.
DEFINED = frozenset(
    [
        "job_id",
        "task",
        "queue",
        "model",
        "required_models",
        "needs",
        "org",
        "owner",
        "priority",
        "sequence",
        "state",
        "message",
        "args_repr",
        "kwargs_repr",
        "root_id",
        "parent_id",
        "due_at",
        "expires_at",
        "queued_at",
        "retries",
        "max_retries",
        "timeout",
        "heartbeat_timeout",
    ]
)


class Statement:
    """A statement with named parameters, as the driver wants it.

    Args:
        clause: it has no expanding parameters; JSON is given as text.
        dialect: the database's.
    """

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled = clause.compile(dialect=dialect)
        self.text = str(compiled)
        names = getattr(compiled, "positiontup", None)
        #: The parameters: where they have positions, in that order.
        self.names: tuple[str, ...] = tuple(names or getattr(compiled, "binds", None) or ())
        self._pick = _picker(self.names) if names else None

    def bound(self, row: Mapping[str, Any]) -> Any:
        """Return the parameters of one row in the driver's form."""
        return row if self._pick is None else self._pick(row)

    def ordered(self, values: tuple[Any, ...]) -> Any:
        """Return parameters that are given in their order in the statement in the driver's form."""
        return values if self._pick else dict(zip(self.names, values, strict=True))

    def one(self, connection: sa.Connection, row: Mapping[str, Any]) -> sa.CursorResult[Any]:
        """Run it for one row."""
        return connection.exec_driver_sql(self.text, self.bound(row))

    def many(self, connection: sa.Connection, bound: list[Any]) -> int:
        """Run it for rows that are bound already; return how many rows of the table it touched."""
        return connection.exec_driver_sql(self.text, bound).rowcount


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Any]:
    pick = itemgetter(*names)
    # Of a single name it would return the value itself.
    return pick if len(names) > 1 else lambda row: (pick(row),)


class Statements:
    """The statements of producers and recorder, each compiled with its first use.

    Args:
        schema, dialect: of the database.
    """

    def __init__(self, schema: Schema, dialect: sa.Dialect) -> None:
        self.schema, self.dialect = schema, dialect
        self._moves: dict[tuple[str, ...], Statement] = {}

    @cached_property
    def job(self) -> Statement:
        table = self.schema.jobs
        return self._insert(table, [column.name for column in table.c if column.name in DEFINED])

    @cached_property
    def model(self) -> Statement:
        return self._insert(self.schema.models)

    @cached_property
    def forget_models(self) -> Statement:
        table = self.schema.models
        return self._made(sa.delete(table).where(table.c.job_id == sa.bindparam("this")))

    @cached_property
    def log(self) -> Statement:
        return self._insert(self.schema.events, LOGGED)

    @cached_property
    def amend(self) -> Statement:
        table = self.schema.events
        return self._made(
            sa.update(table)
            .where(table.c.epoch == sa.bindparam("e"), table.c.event_id == sa.bindparam("i"))
            .values(before=sa.bindparam("b"))
        )

    @cached_property
    def total(self) -> Statement:
        table = self.schema.totals
        insert = self._upsert(table)
        return self._made(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key),
                set_={"value": table.c.value + insert.excluded.value},
            )
        )

    @cached_property
    def set(self) -> Statement:
        table = self.schema.settings
        insert = self._upsert(table)
        columns = ("value", "set_by", "reason", "until_at", "set_at")
        return self._made(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key),
                set_={name: insert.excluded[name] for name in columns},
                # An event that comes late must not bring back what was set before.
                where=table.c.set_at <= insert.excluded.set_at,
            )
        )

    @cached_property
    def unset(self) -> Statement:
        table = self.schema.settings
        return self._made(
            sa.delete(table).where(
                table.c.kind == sa.bindparam("kind"),
                table.c.resource == sa.bindparam("resource"),
                table.c.set_at <= sa.bindparam("set_at"),
            )
        )

    @cached_property
    def known(self) -> Statement:
        table = self.schema.events.c
        return self._made(
            sa.select(table.event_id).where(
                table.epoch == sa.bindparam("epoch"), self._among(table.event_id)
            )
        )

    @cached_property
    def known_jobs(self) -> Statement:
        column = self.schema.jobs.c.job_id
        return self._made(sa.select(column).where(self._among(column)))

    @cached_property
    def rows(self) -> Statement:
        table = self.schema.jobs.c
        # Locked, so that a heartbeat between reading and writing a row is not overwritten; in one order.
        return self._made(
            sa.select(*(table[name] for name in READ))
            .where(self._among(table.job_id))
            .order_by(table.job_id)
            .with_for_update()
        )

    def move(self, columns: tuple[str, ...]) -> Statement:
        """Return the update of some columns of a row that still is as it was read."""
        if columns not in self._moves:
            table = self.schema.jobs
            same = [
                table.c.job_id == sa.bindparam("this"),
                table.c.epoch == sa.bindparam("old_epoch"),
                table.c.version == sa.bindparam("old_version"),
            ]
            if "last_heartbeat" in columns or "progress" in columns:
                beat = sa.bindparam("old_beat", type_=sa.BigInteger)
                same.append(table.c.last_heartbeat.is_not_distinct_from(beat))
            values = {name: sa.bindparam(name, type_=table.c[name].type) for name in columns}
            self._moves[columns] = self._made(sa.update(table).where(*same).values(values))
        return self._moves[columns]

    def listed(self, values: Sequence[str]) -> Any:
        """Return the values of ``ids``, one parameter whatever their number."""
        return json.dumps(values) if self.dialect.name == "sqlite" else list(values)

    def _among(self, column: sa.Column[str]) -> sa.ColumnElement[bool]:
        if self.dialect.name == "sqlite":
            ids = sa.func.json_each(sa.bindparam("ids", type_=sa.Text))
            value: sa.ColumnClause[str] = sa.column("value", sa.Text)
            return column.in_(sa.select(value).select_from(ids))
        return column == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.Text)))

    def _upsert(self, table: sa.Table, columns: Sequence[str] = ()) -> Any:
        names = columns or [column.name for column in table.c]
        return insert(self.dialect.name, table).values({name: sa.bindparam(name) for name in names})

    def _insert(self, table: sa.Table, columns: Sequence[str] = ()) -> Statement:
        return self._made(self._upsert(table, columns).on_conflict_do_nothing())

    def _made(self, clause: sa.ClauseElement) -> Statement:
        return Statement(clause, self.dialect)

"""Operations: what operators have set, and what running jobs report of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator.schema.texts import HELD
from coordinator.store.database import Database, now_ms


@dataclass(frozen=True, slots=True)
class OperatorSetting:
    """A limit, hold or override as an operator has set it; the recorder keeps it from the events.

    Attributes:
        kind: ``limit``, ``hold`` or ``override``.
        resource: what it is set for.
        value: its JSON value; None for a hold.
        by, reason: who set it, and why.
        until_ms: when it ends (Unix milliseconds); 0 is never.
        set_ms: when it was set.
    """

    kind: str
    resource: str
    value: Any
    by: str
    reason: str
    until_ms: int
    set_ms: int


class Operations(Database):
    """The verbs for operator settings, heartbeats and progress."""

    def settings(self, at_ms: int = 0) -> list[OperatorSetting]:
        """Return the settings that have not ended, by kind and resource.

        Args:
            at_ms: the moment asked for (Unix milliseconds); 0 is now.
        """
        table = self.schema.settings.c
        query = (
            sa.select(self.schema.settings)
            .where(sa.or_(table.until_at.is_(None), table.until_at > (at_ms or now_ms())))
            .order_by(table.kind, table.resource)
        )
        with self.reading() as connection:
            return [
                OperatorSetting(
                    row["kind"],
                    row["resource"],
                    row["value"],
                    row["set_by"],
                    row["reason"],
                    row["until_at"] or 0,
                    row["set_at"],
                )
                for row in connection.execute(query).mappings()
            ]

    def heartbeats(self, seen: Mapping[str, int]) -> None:
        """Note when workers were last seen, in the rows of their running jobs.

        Args:
            seen: worker to Unix milliseconds; a time older than the row's is left out.
        """
        table = self.schema.jobs
        update = (
            sa.update(table)
            .where(
                table.c.worker == sa.bindparam("name"),
                sa.text(HELD),
                sa.func.coalesce(table.c.last_heartbeat, 0) < sa.bindparam("at"),
            )
            .values(last_heartbeat=sa.bindparam("at"))
        )
        rows = [{"name": worker, "at": at} for worker, at in sorted(seen.items())]
        if rows:
            with self.writing() as connection:
                connection.execute(update, rows)

    def progress(self, reports: Mapping[str, Any], at_ms: int = 0) -> None:
        """Note what running jobs report of their progress; a job that does not run is left out.

        Args:
            reports: job id to anything that JSON can hold.
            at_ms: when (Unix milliseconds); 0 is now.
        """
        table = self.schema.jobs
        update = (
            sa.update(table)
            .where(table.c.job_id == sa.bindparam("this"), sa.text(HELD))
            .values(progress=sa.bindparam("what"), last_heartbeat=sa.bindparam("at"))
        )
        rows = [
            {"this": job_id, "what": self.redactor.value(what), "at": at_ms or now_ms()}
            for job_id, what in sorted(reports.items())
        ]
        if rows:
            with self.writing() as connection:
                connection.execute(update, rows)

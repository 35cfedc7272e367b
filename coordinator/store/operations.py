"""Operations: what operators have set, and what running jobs report of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.schema import SETTING_KINDS
from coordinator.schema.texts import HELD
from coordinator.store.database import Database, now_ms


@dataclass(frozen=True, slots=True)
class OperatorSetting:
    """A limit, hold, override or weight as an operator has set it.

    Attributes:
        kind: ``limit``, ``hold``, ``override`` or ``weight``.
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

    def set_setting(
        self,
        kind: str,
        resource: str,
        value: Any = None,
        *,
        by: str,
        reason: str = "",
        until_ms: int = 0,
        at_ms: int = 0,
    ) -> OperatorSetting:
        """Keep a setting for ever, or until its end; it replaces an older one of this kind and resource.

        Args:
            kind: ``limit``, ``hold``, ``override`` or ``weight``.
            resource: what it is set for.
            value: anything that JSON can hold.
            by, reason: who sets it, and why.
            until_ms: when it ends (Unix milliseconds); 0 is never.
            at_ms: when it was set; 0 is now.
        """
        if kind not in SETTING_KINDS:
            raise InvalidValue("kind", kind, "one of " + ", ".join(SETTING_KINDS), SETTING_KINDS)
        setting = OperatorSetting(
            kind, resource, value, by, self.redactor.text(reason), until_ms, at_ms or now_ms()
        )
        columns = {
            "value": value,
            "set_by": by,
            "reason": setting.reason,
            "until_at": until_ms or None,
            "set_at": setting.set_ms,
        }
        insert = self.upsert(self.schema.settings).values(kind=kind, resource=resource, **columns)
        with self.writing() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["kind", "resource"], set_=columns)
            )
        return setting

    def drop_setting(self, kind: str, resource: str) -> bool:
        """Forget a setting; return whether there was one."""
        table = self.schema.settings
        with self.writing() as connection:
            done = connection.execute(
                sa.delete(table).where(table.c.kind == kind, table.c.resource == resource)
            )
            return done.rowcount > 0

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

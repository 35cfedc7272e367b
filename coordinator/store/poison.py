"""Poison: events that cannot be recorded or delivered are kept aside, so that the rest goes on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from coordinator.jobs import Event
from coordinator.store.database import Database, now_ms

#: What a job's row needs of an event; everything else is for people.
_BARE = ("state", "sequence", "token", "worker", "attempts", "retries", "losses", "due_ms", "row")


class Poison(Database):
    """The verbs for events that make trouble."""

    def bare(self, event: Event) -> Event:
        """Return ``event`` with only what the job's row needs, for an event whose texts are refused."""
        data = {name: event.data[name] for name in _BARE if name in event.data}
        return Event(
            event.epoch,
            event.event_id,
            event.verb,
            event.job_id,
            event.version,
            event.at_ms,
            {**data, "reason": "details set aside, see the poison events"},
        )

    def set_aside(self, event: Event, error: str) -> None:
        """Keep an event that cannot be recorded or delivered, for a person to look at.

        Args:
            event: whatever came; it may be damaged in any way.
            error: what went wrong with it.
        """
        row = {
            "epoch": event.epoch if event.epoch in range(1 << 63) else 0,
            "event_id": ascii(str(event.event_id))[1:-1],
            # ASCII with escapes and a last resort for what JSON does not know: this must always succeed.
            "event": json.dumps(asdict(event), default=repr),
            "error": self.redactor.text(error),
            "set_aside_at": now_ms(),
        }
        insert = self.upsert(self.schema.poison).values(row)
        with self.writing() as connection:
            connection.execute(insert.on_conflict_do_nothing())

    def poison(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the events that were set aside, newest first; ``event`` is its JSON text."""
        table = self.schema.poison
        query = sa.select(table).order_by(table.c.set_aside_at.desc()).limit(limit)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

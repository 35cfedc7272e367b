"""Texts of SQL that tables, indexes, views and queries must share word by word."""

from __future__ import annotations

from coordinator.states import FINAL, State


def words(*items: str) -> str:
    """Return words as a list of SQL literals."""
    return ", ".join(f"'{item}'" for item in items)


FINAL_STATES = words(*sorted(FINAL))

#: A database proves by the text of the condition that it may use a partial index.
UNFINISHED = "finished_at IS NULL"
HELD = f"state IN ({words(State.RUNNING, State.STOPPING)})"
RETRYING = f"retries > 0 AND {UNFINISHED}"

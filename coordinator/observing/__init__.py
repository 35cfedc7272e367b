"""Observe-only mode: which runs would have waited for a model, found out without making any of them wait.

Its keys are its own: it needs neither the ledger nor the database, only a Redis.
"""

from __future__ import annotations

from coordinator.observing.conflicts import (
    ConflictExample,
    ConflictPair,
    Conflicts,
    RefusedTask,
    TaskConflicts,
)
from coordinator.observing.marks import Marks, Run

__all__ = [
    "ConflictExample",
    "ConflictPair",
    "Conflicts",
    "Marks",
    "RefusedTask",
    "Run",
    "TaskConflicts",
]

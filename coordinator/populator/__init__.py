"""The populator: keeps queues from running dry, without filling them for its own sake.

The app says what there should be (setting ``coordinator_populator``, a callable that returns wishes); the populator
compares that with what is pending or running, looks at what stands in the way, and submits the difference. What it
decided last, and why, is in the store: any process can tell.
"""

from __future__ import annotations

from coordinator.populator.controller import QueuePopulator
from coordinator.populator.rounds import SILENT_SECONDS, Rounds
from coordinator.populator.wishes import Decision, Population, Wish, load_plan

__all__ = [
    "SILENT_SECONDS",
    "Decision",
    "Population",
    "QueuePopulator",
    "Rounds",
    "Wish",
    "load_plan",
]

"""The drills: one function each; what it does to a cluster under load, and what it asserts meanwhile."""

from __future__ import annotations

from tests.chaos.drills import connections, databases, jobs, pools, servers, shutdowns, workers
from tests.chaos.drills.registry import DRILLS, Drill

__all__ = [
    "DRILLS",
    "Drill",
    "connections",
    "databases",
    "jobs",
    "pools",
    "servers",
    "shutdowns",
    "workers",
]

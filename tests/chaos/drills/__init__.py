"""The drills: one function each; what it does to a cluster under load, and what it asserts meanwhile."""

from __future__ import annotations

from tests.chaos.drills import databases, jobs, servers, workers
from tests.chaos.drills.registry import DRILLS, Drill

__all__ = ["DRILLS", "Drill", "databases", "jobs", "servers", "workers"]

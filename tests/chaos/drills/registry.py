"""Names the drills."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cluster import Cluster

Blows = Callable[[Cluster, random.Random], str | None]


@dataclass(frozen=True)
class Drill:
    """A drill.

    Attributes:
        name: as on the command line.
        strike: does what the name says; returns a remark for the table.
        options: of the cluster.
        runs_killed: whether the drill kills jobs on purpose, so that at least one run never ended.
    """

    name: str
    strike: Blows
    options: dict[str, Any] = field(default_factory=dict)
    runs_killed: bool = False


DRILLS: dict[str, Drill] = {}


def drill(runs_killed: bool = False, **options: Any) -> Callable[[Blows], Blows]:
    """Register a function as a drill under its name."""

    def register(strike: Blows) -> Blows:
        name = strike.__name__.replace("_", "-")
        DRILLS[name] = Drill(name, strike, options, runs_killed)
        return strike

    return register

"""Names the drills."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cluster import Cluster

Blows = Callable[[Cluster, random.Random], str | None]


def _possible() -> str:
    return ""


@dataclass(frozen=True)
class Drill:
    """A drill.

    Attributes:
        name: as on the command line.
        strike: does what the name says; returns a remark for the table.
        options: of the cluster.
        runs_killed: whether the drill kills jobs on purpose, so that at least one run never ended.
        skip: says why the drill cannot be run on this machine, "" when it can.
        reusable: whether the cluster is good for another repetition afterwards, if it is healthy.
    """

    name: str
    strike: Blows
    options: dict[str, Any] = field(default_factory=dict)
    runs_killed: bool = False
    skip: Callable[[], str] = _possible
    reusable: bool = True


DRILLS: dict[str, Drill] = {}


def drill(
    runs_killed: bool = False,
    skip: Callable[[], str] = _possible,
    reusable: bool = True,
    **options: Any,
) -> Callable[[Blows], Blows]:
    """Register a function as a drill under its name."""

    def register(strike: Blows) -> Blows:
        name = strike.__name__.replace("_", "-")
        DRILLS[name] = Drill(name, strike, options, runs_killed, skip, reusable)
        return strike

    return register

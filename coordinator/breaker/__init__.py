"""Panic mode: a circuit breaker per queue and integration, and the emergency stop of everything.

Closed, it watches how jobs end. Open, it holds its resource. Half-open, one run at a time probes: the first that
fails brings the hold back in the very step in which it ends (``lua/probe.lua``), and enough that succeed close it.
Its state is in the store, so that it outlives Redis and every process. Redis is changed first: a breaker whose
state was lost half-way is found by its hold, and taken up.
"""

from __future__ import annotations

from coordinator.breaker.emergency import Emergency
from coordinator.breaker.evaluation import Evaluation
from coordinator.breaker.states import Breaker, PanicStep

__all__ = ["Breaker", "Breakers", "PanicStep"]


class Breakers(Emergency, Evaluation):
    """The verbs of panic mode."""

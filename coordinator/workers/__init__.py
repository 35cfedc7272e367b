"""Workers: who is there, what each has done, how many slots a queue has; told to take nothing new, or more."""

from __future__ import annotations

from coordinator.workers.records import QueueScale, WorkerRecord
from coordinator.workers.steering import Workers

__all__ = ["QueueScale", "WorkerRecord", "Workers"]

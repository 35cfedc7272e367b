"""Who holds what: the locks, and where jobs stand at this moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.ledger.answers import Holder
from coordinator.ledger.reads import Reads

#: Classes of which the waiting jobs are counted per resource.
COUNTED = 1000

_STANDING = (
    "state",
    "worker",
    "started",
    "due",
    "retries",
    "attempts",
    "progress",
    "progressed",
    "queue",
    "task",
)


@dataclass(frozen=True, slots=True)
class Lock:
    """A resource that somebody holds, waits for, or has paused.

    Attributes:
        resource: its name, such as ``model:ranker``.
        holders: who has a unit of it, the oldest run first.
        waiting: jobs that wait for it before anything else.
        limit: an operator's or the configuration's, None when only its kind's applies.
        hold: who paused it, why and until when, or None.
    """

    resource: str
    holders: tuple[Holder, ...]
    waiting: int
    limit: int | None
    hold: dict[str, Any] | None


class Locks(Reads):
    """Reads of what is held."""

    def standing(self, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return where those of the jobs stand that the ledger knows, with what changes while they run."""
        pipe = self.redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hmget(f"{self.prefix}job:{job_id}", *_STANDING)
        found = {}
        for job_id, values in zip(job_ids, pipe.execute() if job_ids else (), strict=True):
            if values[0] is not None:
                known = zip(_STANDING, values, strict=True)
                found[job_id] = {name: value for name, value in known if value is not None}
        return found

    def held(self) -> set[str]:
        """Return the resources of which somebody has a unit.

        Found through those who have them, of whom there are no more than slots and workflows: of keys there
        are millions.
        """
        prefix = self.prefix
        pipe = self.redis.pipeline(transaction=False)
        pipe.zrange(f"{prefix}workers", 0, -1).hkeys(f"{prefix}counts").smembers(f"{prefix}owners")
        workers, counts, owners = pipe.execute()
        for worker in workers:
            pipe.smembers(f"{prefix}worker:{worker}:jobs")
        for queue in {name.rpartition("|")[0] for name in counts}:
            pipe.zrange(f"{prefix}dispatched:{queue}", 0, -1)
        jobs = [job_id for group in pipe.execute() for job_id in group]
        for job_id in jobs:
            pipe.hget(f"{prefix}job:{job_id}", "held")
        for owner in owners:
            pipe.smembers(f"{prefix}owned:{owner}")
        found = pipe.execute()
        names = {name for held in found[: len(jobs)] for name in (held or "").split()}
        return names.union(*found[len(jobs) :])

    def locks(self, kinds: Sequence[str] = ("model",)) -> list[Lock]:
        """Return the resources of these kinds that are held, waited for or paused, by name."""
        prefix = self.prefix
        blocked, holds = (
            self.redis.smembers(f"{prefix}blocked"),
            self.redis.hgetall(f"{prefix}holds"),
        )
        named = (*self.held(), *blocked, *holds)
        names = {name for name in named if name.partition(":")[0] in kinds}
        configured: dict[str, str] = {}
        for name in ("defaults", "limits", "overrides"):
            configured |= self.redis.hgetall(f"{prefix}{name}")
        return [
            Lock(
                name,
                self._holders(name),
                self._parked(name),
                int(configured[name]) if configured.get(name, "").isdecimal() else None,
                json.loads(holds[name]) if name in holds else None,
            )
            for name in sorted(names)
        ]

    def _holders(self, resource: str) -> tuple[Holder, ...]:
        ids = sorted(self.redis.smembers(f"{self.prefix}holders:{resource}"))
        standing = self.standing(ids)
        found = []
        for owner in ids:
            run = standing.get(owner, {})
            started = int(run["started"]) if "started" in run else None
            found.append(
                Holder(owner, run.get("task"), run.get("worker"), run.get("state"), started)
            )
        return tuple(sorted(found, key=lambda holder: (holder.started_ms or 0, holder.id)))

    def _parked(self, resource: str) -> int:
        classes: list[str] = []
        for lane in self.redis.zrange(f"{self.prefix}lanes:{resource}", 0, -1):
            key = f"{self.prefix}parked:{resource}|{lane}"
            classes += self.redis.zrange(key, 0, COUNTED - len(classes) - 1)
            if len(classes) >= COUNTED:
                break
        pipe = self.redis.pipeline(transaction=False)
        for class_id in classes:
            pipe.zcard(f"{self.prefix}class:{class_id}")
        return sum(pipe.execute())

    def oldest_event(self) -> str | None:
        """Return the id of the oldest event that was not settled, or None."""
        entries = self.redis.xrange(f"{self.prefix}events", count=1)
        return entries[0][0] if entries else None

    def consumed(self) -> set[str]:
        """Return the queues that live workers consume."""
        pools = self.redis.hgetall(f"{self.prefix}pool_workers")
        return {queue for pool, workers in pools.items() if int(workers) for queue in pool.split()}

    def leader(self, name: str) -> str | None:
        """Return who holds a singleton's term, or None."""
        found: str | None = self.redis.get(f"{self.prefix}leader:{name}")
        return found

    def next_due(self, queue: str) -> int | None:
        """Return when the next delayed job of a queue is due (Unix milliseconds); looks at the next 1,000."""
        ids = self.redis.zrange(f"{self.prefix}delayed", 0, 999)
        standing = self.standing(ids)
        for job_id in ids:
            job = standing.get(job_id, {})
            if job.get("queue") == queue and "due" in job:
                return int(job["due"])
        return None

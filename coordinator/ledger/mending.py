"""What the reconciler reads of the ledger, and how it mends it. Nothing on the way of a job uses this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.jobs import Job
from coordinator.ledger.locks import Locks

#: Keys that one call looks through, of the millions that a million jobs have, and one SCAN of it.
KEYS, SCAN = 5_000, 1000


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a resource as it is recorded.

    Attributes:
        resource: the resource.
        owner: the job, or whoever else holds it.
        state: the job's state; None when the ledger knows no such job.
        due: whether the job's own record says that it holds this.
        worker: who runs it, or None.
    """

    resource: str
    owner: str
    state: str | None
    due: bool
    worker: str | None


class Mending(Locks):
    """The verbs of the reconciler."""

    def units(self, cursor: int) -> tuple[int, list[Unit]]:
        """Return where to go on (0 is the beginning), and units that are held.

        Those by somebody who may hold something, those that somebody waits for, and of all others, which no run
        holds, the next piece.
        """
        prefix = f"{self.prefix}holders:"
        names = self.held() | set(self.redis.smembers(f"{self.prefix}blocked"))
        for _ in range(KEYS // SCAN):
            cursor, keys = self.redis.scan(cursor, match=f"{prefix}*", count=SCAN)
            names.update(key.removeprefix(prefix) for key in keys)
            if not int(cursor):
                break
        resources = sorted(names)
        reads = self.redis.pipeline(transaction=False)
        for name in resources:
            reads.smembers(f"{prefix}{name}")
        held = [
            (name, owner)
            for name, owners in zip(resources, reads.execute(), strict=True)
            for owner in sorted(owners)
        ]
        reads = self.redis.pipeline(transaction=False)
        for _, owner in held:
            reads.hmget(f"{self.prefix}job:{owner}", "state", "held", "worker")
        return int(cursor), [
            Unit(resource, owner, state, resource in (named or "").split(), worker)
            for (resource, owner), (state, named, worker) in zip(held, reads.execute(), strict=True)
        ]

    def idle(self, owners: Sequence[str]) -> list[str]:
        """Return those owners that have no unfinished job."""
        reads = self.redis.pipeline(transaction=False)
        for owner in owners:
            reads.exists(f"{self.prefix}members:{owner}")
        found = zip(owners, reads.execute() if owners else (), strict=True)
        return [owner for owner, known in found if not known]

    def remembered(self, until_ms: int, limit: int) -> dict[str, str]:
        """Return jobs that ended up to a moment and are not settled yet, each with its version.

        Args:
            until_ms: Unix milliseconds of Redis's clock.
            limit: jobs at most.
        """
        name = f"{self.prefix}tombstones"
        ids = self.redis.zrange(name, "-inf", until_ms, byscore=True, offset=0, num=limit)
        reads = self.redis.pipeline(transaction=False)
        for job_id in ids:
            reads.hget(f"{self.prefix}job:{job_id}", "version")
        found = zip(ids, reads.execute(), strict=True)
        return {job_id: version for job_id, version in found if version}

    def oldest_event_ms(self) -> int | None:
        """Return the moment of the oldest event that is not settled, or None: all are."""
        entries = self.redis.xrange(f"{self.prefix}events", count=1)
        return int(entries[0][0].partition("-")[0]) if entries else None

    def some_jobs(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Return the next cursor (0: all were seen) and ids of about ``count`` jobs."""
        prefix = f"{self.prefix}job:"
        after, keys = self.redis.scan(cursor, match=f"{prefix}*", count=count)
        return int(after), sorted({key.removeprefix(prefix) for key in keys})

    def message(self, job_id: str) -> str | None:
        """Return an unfinished job's Celery message as ``Job`` has it; None when it has ended."""
        kept = self.redis.get(f"{self.prefix}message:{job_id}")
        # The scripts keep it with this in place of the id.
        return None if kept is None else str(kept).replace("\x01", job_id)

    def defined(self, job_id: str) -> Job | None:
        """Return an unfinished job as far as the ledger knows it; None when it has ended."""
        fields = self.redis.hgetall(f"{self.prefix}job:{job_id}")
        message = self.message(job_id)
        if "sequence" not in fields or message is None:
            return None
        shared = self.redis.hgetall(f"{self.prefix}needs:{fields['class']}")
        given = {**shared, **{name: fields[name] for name in _DEFINING if name in fields}}
        if "needs" not in given:
            return None
        # A job that follows another one has the sequence of that.
        submitted_ms = int(fields.get("followed") or int(fields["sequence"]) // 1000)
        return Job(
            job_id=job_id,
            task=fields["task"],
            queue=fields["queue"],
            needs=tuple(given["needs"].split()),
            message=message,
            org=given.get("org") or None,
            priority=int(given["priority"]),
            max_retries=int(fields["max_retries"]),
            due_ms=int(fields.get("due", 0)),
            expires_ms=int(fields.get("expires", 0)),
            retries=int(fields.get("retries", 0)),
            submitted_ms=submitted_ms,
            owner=fields.get("owner", ""),
        )

    def mend(self, kind: str, *arguments: str) -> list[str]:
        """Mend what still needs it; see ``lua/mend.lua``. Returns the jobs that were concerned."""
        return list(self.run("mend", kind, *arguments).get("mended") or ())

    def mend_ends(self, kind: str, ends: Sequence[tuple[str, str]]) -> list[str]:
        """Mend ``ended`` or ``recorded`` jobs, each given with its version."""
        return self.mend(kind, *(part for end in ends for part in end)) if ends else []


_DEFINING = ("needs", "priority", "org")

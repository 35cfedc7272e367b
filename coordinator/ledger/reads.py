"""Reading the ledger. Nothing on the way of a job uses this."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from coordinator.ledger.answers import Holder, Obstacle, Waiting
from coordinator.ledger.scripts import Scripts
from coordinator.resources import models_of


class Reads(Scripts):
    """What is where, at this moment."""

    def job(self, job_id: str) -> dict[str, str] | None:
        """Return what the ledger knows of a job, or None."""
        return self.redis.hgetall(f"{self.prefix}job:{job_id}") or None

    def waits(self, job_id: str) -> Waiting | None:
        """Return all that stops a waiting job now, or None when it does not wait."""
        answer = self.run("why", job_id)
        if answer.get("answer") == "none":
            return None
        return Waiting(
            answer["now"],
            tuple(answer["needs"]),
            answer["parked"],
            answer["position"],
            answer["expected"],
            tuple(_obstacle(item) for item in answer.get("obstacles") or ()),
        )

    def unknown(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of the jobs that the ledger does not know, tombstones being known."""
        keys = [f"{self.prefix}job:{job_id}" for job_id in job_ids]
        if not keys or self.redis.exists(*keys) == len(keys):
            return set()
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.exists(key)
        return {job_id for job_id, there in zip(job_ids, pipe.execute(), strict=True) if not there}

    def waiting(self, limit: int) -> list[str]:
        """Return ids of waiting jobs: of the heads of up to 1,000 classes the oldest ``limit``."""
        pipe = self.redis.pipeline(transaction=False)
        for class_id in self.classes()[:1000]:
            pipe.zrange(f"{self.prefix}class:{class_id}", 0, limit - 1, withscores=True)
        heads = [(at, job_id) for found in pipe.execute() for job_id, at in found]
        return [job_id for _, job_id in sorted(heads)[:limit]]

    def classes(self) -> list[str]:
        """Return the classes that have waiting jobs, found through the resources where they are parked."""
        prefix = self.prefix
        resources = sorted(self.redis.smembers(f"{prefix}blocked"))
        pipe = self.redis.pipeline(transaction=False)
        for resource in resources:
            pipe.zrange(f"{prefix}lanes:{resource}", 0, -1)
        for resource, lanes in zip(resources, pipe.execute(), strict=True):
            for lane in lanes:
                pipe.zrange(f"{prefix}parked:{resource}|{lane}", 0, -1)
        return [class_id for parked in pipe.execute() for class_id in parked]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs by (queue, state)."""
        raw = self.redis.hgetall(f"{self.prefix}counts")
        found = {}
        for name, number in raw.items():
            queue, _, state = name.rpartition("|")
            if int(number):
                found[queue, state] = int(number)
        return found

    def workers(self) -> list[dict[str, Any]]:
        """Return the live workers with what they reported."""
        found = []
        for worker, until in self.redis.zrange(f"{self.prefix}workers", 0, -1, withscores=True):
            fields = self.redis.hgetall(f"{self.prefix}worker:{worker}")
            if fields:
                report = json.loads(fields.pop("report", "{}"))
                jobs = self.redis.smembers(f"{self.prefix}worker:{worker}:jobs")
                found.append(
                    {"id": worker, **fields, **report, "lease_ms": until, "jobs": sorted(jobs)}
                )
        return found

    def idle_workers(self) -> list[dict[str, Any]]:
        """Return the workers that answer but take nothing, though messages wait and they have free slots.

        ``idle_seconds`` says for how long; see ``coordinator.running.idleness``.
        """
        return [worker for worker in self.workers() if worker.get("idle_seconds")]

    def present(self) -> dict[tuple[str, str | None], int]:
        """Return the number of unfinished jobs by (queue, model); a job of several models counts for each."""
        found: dict[tuple[str, str | None], int] = {}
        for needs, number in self._needs():
            models = models_of(needs) or (None,)
            for model in models:
                key = (needs[-1].split(":", 1)[1], model)
                found[key] = found.get(key, 0) + number
        return found

    def _needs(self) -> Iterator[tuple[list[str], int]]:
        yield from self._awaited()
        prefix = self.prefix
        pipe = self.redis.pipeline(transaction=False)
        for queue in {queue for queue, _ in self.counts()}:
            pipe.zrange(f"{prefix}dispatched:{queue}", 0, -1)
        pipe.zrange(f"{prefix}delayed", 0, -1)
        busy = {job_id for found in pipe.execute() for job_id in found}
        busy.update(job["id"] for job in self.running())
        for job_id in busy:
            pipe.hget(f"{prefix}job:{job_id}", "needs")
        for needs in pipe.execute():
            if needs:
                yield needs.split(), 1

    def _awaited(self) -> Iterator[tuple[list[str], int]]:
        """Yield what the jobs of each class need, and how many there are."""
        pipe, classes = self.redis.pipeline(transaction=False), self.classes()
        for class_id in classes:
            pipe.hget(f"{self.prefix}needs:{class_id}", "needs")
            pipe.zcard(f"{self.prefix}class:{class_id}")
        answers = pipe.execute()
        for needs, number in zip(answers[::2], answers[1::2], strict=True):
            if needs and number:
                yield needs.split(), number

    def holders(self, resource: str) -> set[str]:
        return set(self.redis.smembers(f"{self.prefix}holders:{resource}"))

    def owned(self, owner: str) -> set[str]:
        """Return the resources of which an owner that is no job has a unit."""
        return set(self.redis.smembers(f"{self.prefix}owned:{owner}"))

    def members(self, owner: str) -> set[str]:
        """Return the unfinished jobs of an owner."""
        return set(self.redis.smembers(f"{self.prefix}members:{owner}"))

    def holds(self) -> dict[str, dict[str, Any]]:
        """Return the held resources, each with who, why and until when."""
        raw = self.redis.hgetall(f"{self.prefix}holds")
        return {resource: json.loads(note) for resource, note in raw.items()}

    def silent(self, seconds: float) -> list[dict[str, str]]:
        """Return the jobs that run without a sign of life for so long, the most silent first.

        A sign of life is the start of the run, ``progress()`` or ``checkpoint()``. Each has ``silent_ms`` beside
        what the ledger knows of it.
        """
        second, micro = self.redis.time()
        now = int(second) * 1000 + int(micro) // 1000
        found = []
        for job in self.running():
            signs = (int(job.get("started", now)), int(job.get("progressed", 0)))
            silence = now - max(signs)
            if job["state"] == "running" and silence >= seconds * 1000:
                found.append((silence, {**job, "silent_ms": str(silence)}))
        return [job for _, job in sorted(found, key=lambda item: -item[0])]

    def running(self) -> list[dict[str, str]]:
        """Return the jobs that run or are being stopped."""
        found = []
        for worker in self.redis.zrange(f"{self.prefix}workers", 0, -1):
            for job_id in self.redis.smembers(f"{self.prefix}worker:{worker}:jobs"):
                job = self.job(job_id)
                if job:
                    found.append({"id": job_id, **job})
        return found


def _obstacle(item: dict[str, Any]) -> Obstacle:
    holders = tuple(
        Holder(
            holder["id"],
            holder.get("task"),
            holder.get("worker"),
            holder.get("state"),
            holder.get("started"),
            holder.get("expected"),
        )
        for holder in item.get("holders") or ()
    )
    hold = json.loads(item["hold"]) if item.get("hold") else None
    return Obstacle(item["resource"], item["code"], item.get("limit"), item["of"], holders, hold)

"""A small model of the ledger's rules in plain Python: who may start, and in which order.

It knows nothing of classes, parking and wakes. Whatever happens, it looks at all waiting jobs again; the
ledger, which looks at a few, has to come to the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOLDING = frozenset({"dispatched", "running", "stopping"})
FINAL = frozenset({"completed", "failed", "unprocessable", "canceled"})


@dataclass
class ModelJob:
    """A job as the model sees it.

    Attributes:
        order: its place; jobs keep it when they come back.
        stop: what a stopping job is to become: ``cancel`` or ``release``.
        pool: queues of the worker that runs it.
    """

    needs: tuple[str, ...]
    priority: int
    order: int
    state: str = "waiting"
    stop: str = ""
    pool: tuple[str, ...] = ()
    losses: int = 0
    retries: int = 0
    max_retries: int = 3

    @property
    def queue(self) -> str:
        return self.needs[-1].removeprefix("queue:")


@dataclass
class Model:
    """Jobs, live workers as queues -> free slots of each, limits and holds."""

    jobs: dict[str, ModelJob] = field(default_factory=dict)
    workers: dict[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    defaults: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    overrides: dict[str, int] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)
    last: int = 0

    def limit(self, resource: str) -> int | None:
        """Return the limit in force, an operator's before the configured one."""
        kind, _, name = resource.partition(":")
        names = {"queue": [resource], "org": [f"org:{name.split('/')[0]}", "org"]}
        names_of = names.get(kind, [kind])
        for table, keys in (
            (self.overrides, [resource]),
            (self.limits, [resource]),
            (self.defaults, names_of),
        ):
            for key in keys:
                if key in table:
                    return table[key]
        return None

    def holders(self, resource: str) -> set[str]:
        return {
            job_id
            for job_id, job in self.jobs.items()
            if job.state in HOLDING and resource in job.needs
        }

    def free(self, queue: str) -> int:
        """Return the free slots of the workers of a queue, less what may take them already."""
        pools: dict[tuple[str, ...], int] = {}
        for queues, slots in self.workers.values():
            if queue in queues:
                pools[queues] = pools.get(queues, 0) + slots
        siblings = {queue}.union(*pools)
        free = 0
        for queues, slots in pools.items():
            running = [job for job in self.jobs.values() if job.pool == queues]
            free += max(0, slots - len(running))
        ahead = [job for job in self.jobs.values() if job.state == "dispatched"]
        return free - sum(1 for job in ahead if job.queue in siblings)

    def obstacle(self, needs: tuple[str, ...]) -> str | None:
        """Return the first resource that stops a job with these needs, or None."""
        for resource in needs:
            limit = self.limit(resource)
            full = limit is not None and len(self.holders(resource)) >= limit
            if resource in self.holds or full:
                return resource
        return needs[-1] if self.free(needs[-1].removeprefix("queue:")) <= 0 else None

    def admit(self) -> list[str]:
        """Dispatch whatever can start: by priority, then by order; return the ids."""
        started: list[str] = []
        while True:
            waiting = sorted(
                (job.priority, job.order, job_id)
                for job_id, job in self.jobs.items()
                if job.state == "waiting"
            )
            blocked: set[tuple[int, tuple[str, ...]]] = set()
            for priority, _, job_id in waiting:
                needs = self.jobs[job_id].needs
                if (priority, needs) in blocked:
                    continue
                if self.obstacle(needs) is None:
                    self.jobs[job_id].state = "dispatched"
                    started.append(job_id)
                    break
                blocked.add((priority, needs))
            else:
                return started

    def submit(self, job_id: str, needs: tuple[str, ...], priority: int, delayed: bool) -> None:
        self.last += 1
        state = "delayed" if delayed else "waiting"
        self.jobs[job_id] = ModelJob(needs, priority, self.last, state)

    def back(self, job_id: str, state: str = "waiting") -> None:
        """A job goes back to waiting or delayed, or ends."""
        job = self.jobs[job_id]
        job.state, job.stop, job.pool = state, "", ()

    def lose(self, job_id: str) -> None:
        """A run ends without a word."""
        job = self.jobs[job_id]
        if job.state == "stopping":
            self.back(job_id, "canceled" if job.stop == "cancel" else "waiting")
            return
        job.losses += 1
        most = job.max_retries
        spent = (most >= 0 and job.retries + job.losses > most) or job.losses > max(most, 3)
        self.back(job_id, "unprocessable" if spent else "waiting")

"""A ledger on a real Redis with everything around it simulated: workers, their deliveries and their runs.

Whoever drives it (Hypothesis or the marathon) chooses what happens next; the world carries it out, tells the
model, and has it checked that what followed was what had to follow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from coordinator.jobs import Job
from coordinator.resources import needs_of
from coordinator.states import TRANSITIONS, State, Verb
from tests.ledger_checks import (
    LEASE,
    MARGIN,
    MODELS,
    QUEUES,
    Delivery,
    Observed,
    Worker,
    message_of,
    pick,
)
from tests.ledger_model import FINAL

T = TypeVar("T")


class World(Observed):
    """One ledger and its surroundings: what can happen to them.

    Args:
        url: an empty Redis.
        orgs: organisations of the jobs; with a single one the model predicts every start exactly.
        every: steps from one verification of the whole ledger to the next.
    """

    def __init__(self, url: str, orgs: Sequence[str | None] = (None,), every: int = 1) -> None:
        super().__init__(url, orgs, every=every)
        self.ledger.open(1)
        self.configure({"model": 1, "ahead_ms": -1, "lease_ms": LEASE, "claim_ms": LEASE})
        # The model knows no reservation; test_ledger_reservation.py does.
        self.configure({"reservation_ms": 10**12, "reservation_passes": 10**9})

    # -- jobs --------------------------------------------------------------------------------------

    def job(
        self, job_id: str, models: Sequence[int], queue: int, priority: int, org: int, **more: Any
    ) -> Job:
        name, owner = QUEUES[queue % len(QUEUES)], self.orgs[org % len(self.orgs)]
        needs = needs_of(name, [MODELS[model % len(MODELS)] for model in models], owner)
        return Job(job_id, "task", name, needs, message_of(job_id), owner, priority, **more)

    def submit(
        self,
        specs: Sequence[dict[str, Any]],
        delay: int = 0,
        expires: int = 0,
        replay: bool = False,
    ) -> None:
        """Submit jobs in one call; delay and expires in seconds, 0 for none."""
        now = int(self.now())
        batch = []
        for spec in specs:
            self.number += 1
            times: dict[str, Any] = {"due_ms": now + delay * 1000 if delay else 0}
            times["expires_ms"] = now + expires * 1000 if expires else 0
            batch.append(self.job(f"j{self.number}", **spec, **times))
        self.lost_reply(replay, lambda: self.ledger.submit(batch), same=False)
        for job in batch:
            self.jobs[job.job_id] = job
            self.model.submit(job.job_id, job.needs, job.priority, bool(delay))
            self.model.jobs[job.job_id].max_retries = job.max_retries
            if self.exact:
                self.model.admit()
        self.check()

    def submit_again(self, number: int) -> None:
        """Submit a job that is known: nothing may change. One replaced by a canvas begins a new life."""
        job_id = pick([name for name in self.jobs if name not in self.settled], number)
        if job_id is None:
            return
        answer = self.ledger.submit([self.jobs[job_id], self.jobs[job_id]])
        assert answer[1].known
        assert answer[0].known == (job_id not in self.replaced)
        if job_id in self.replaced:
            self.replaced.discard(job_id)
            job = self.jobs[job_id]
            limits = self.model.jobs[job_id].max_retries
            # Due times are in the past by now or not; only the ledger's clock knows.
            self.model.submit(job_id, job.needs, job.priority, delayed=False)
            self.model.jobs[job_id].max_retries = limits
            self.check(exact=not job.due_ms)
        self.check()

    def pop(self, number: int, queue: int) -> None:
        """A worker fetches a message from the broker."""
        worker = pick(self.workers, number)
        if worker is None:
            return
        name = pick(worker.queues, queue)
        text = self.ledger.redis.rpop(name) if name else None
        if text is None:
            return
        headers = json.loads(str(text))["headers"]
        worker.hand.append(Delivery(headers["id"], headers["coordinator_token"]))
        self.steps["pop"] += 1

    def claim(self, number: int, which: int, replay: bool = False, told: bool = True) -> None:
        """A worker begins a delivery; not ``told``, it never learns that it may."""
        worker = pick([worker for worker in self.workers if worker.hand], number)
        delivery = pick(worker.hand, which) if worker else None
        if worker is None or delivery is None or worker.cut_off:
            return
        worker.hand.remove(delivery)
        self.number += 1
        nonce = f"n{self.number}"
        alive, job = self.alive(worker), self.model.jobs[delivery.job_id]
        valid = job.state == "dispatched" and self.token_of(delivery.job_id) == delivery.token
        held = any(need in self.model.holds for need in job.needs)

        def call() -> str:
            return self.ledger.claim(delivery.job_id, delivery.token, nonce, worker.name).answer

        answer = self.lost_reply(replay, call, same=not held)
        self.steps[f"claim {answer}"] += 1
        if valid and not alive:
            assert answer == "no-worker"
        elif valid and held:
            assert answer == ("stale" if replay else "held")
            self.model.back(delivery.job_id)
        elif valid:
            assert answer == "granted"
            job.state, job.pool = "running", tuple(sorted(worker.queues))
            if told:
                worker.runs[delivery] = self.jobs[delivery.job_id].models
        else:
            assert answer == "stale"
        self.gone.append((delivery, nonce, worker.name))
        self.check(exact=not (valid and held))

    def claim_stale(self, number: int, other: bool) -> None:
        """A delivery comes twice, or its claim is repeated much later: nothing begins."""
        found = pick(self.gone, number)
        worker = pick(self.workers, number)
        if found is None or worker is None:
            return
        delivery, nonce, name = found
        if self.before[delivery.job_id].get("state") == "dispatched":
            return
        before = self.hashes()
        answer = self.ledger.claim(
            delivery.job_id,
            delivery.token,
            f"{nonce}x" if other else nonce,
            worker.name if other else name,
        )
        if other or before[delivery.job_id].get("nonce") != nonce:
            assert answer.answer == "stale"
        assert self.hashes() == before
        self.check()

    def finish(
        self,
        number: int,
        outcome: str,
        delay: int = 0,
        successor: dict[str, Any] | None = None,
        replay: bool = False,
    ) -> None:
        """A run ends."""
        runs = [
            (worker, run) for worker in self.workers for run in worker.runs if not worker.cut_off
        ]
        found = pick(runs, number)
        if found is None:
            return
        worker, delivery = found
        job_id, job = delivery.job_id, self.model.jobs[delivery.job_id]
        following: Job | None = None
        if outcome in ("retried", "replaced") and successor is not None:
            due = int(self.now()) + delay * 1000 if delay else 0
            retries = job.retries + (outcome == "retried")
            following = self.job(job_id, **successor, due_ms=due, retries=retries)
        elif outcome == "retried":
            return
        del worker.runs[delivery]
        current = job.state in ("running", "stopping") and self.token_of(job_id) == delivery.token

        def call() -> Any:
            return self.ledger.finish(job_id, delivery.token, outcome, {"reason": "ä"}, following)

        answer = self.lost_reply(replay, call, same=False)
        self.steps[f"finish {outcome} {answer.answer}"] += 1
        if not current:
            assert answer.answer in ("stale", "gone", "again")
            self.check()
            return
        assert answer.answer == ("again" if replay else "done")
        if outcome == "replaced" and following is None and self._was_published(delivery):
            # The canvas was quicker than the run it replaced: the job goes on as it was submitted again.
            following = self.jobs[job_id]
            self._goes_on(job_id, following, following.due_ms > self.now())
        else:
            self._finished(job_id, outcome, following, bool(delay))
        self.check()

    def _was_published(self, delivery: Delivery) -> bool:
        return self.before[delivery.job_id].get("next_of") == str(delivery.token)

    def _finished(self, job_id: str, outcome: str, following: Job | None, delayed: bool) -> None:
        job = self.model.jobs[job_id]
        if outcome in ("completed", "failed", "unprocessable"):
            self.model.back(job_id, outcome)
        elif outcome == "lost":
            self.model.lose(job_id)
        elif job.state == "stopping" and job.stop == "cancel":
            self.model.back(job_id, "canceled")
        elif outcome == "released" or (job.state == "stopping" and following):
            self.model.back(job_id)
        elif following is None:
            self.model.back(job_id, "completed")
            self.replaced.add(job_id)
        else:
            self._goes_on(job_id, following, delayed)

    def _goes_on(self, job_id: str, following: Job, delayed: bool) -> None:
        job = self.model.jobs[job_id]
        if job.state == "stopping" and job.stop == "cancel":
            self.model.back(job_id, "canceled")
            return
        self.jobs[job_id] = following
        job.needs, job.priority, job.retries = (
            following.needs,
            following.priority,
            following.retries,
        )
        job.max_retries = following.max_retries
        self.model.back(job_id, "delayed" if delayed else "waiting")

    def finish_stale(self, number: int) -> None:
        """The end of a run is said again, or by one that lost the job."""
        found = pick(self.gone, number)
        if found is None:
            return
        delivery, _, _ = found
        if any(delivery in worker.runs for worker in self.workers):
            return
        item = self.before[delivery.job_id]
        if item.get("state") in ("running", "stopping") and item["token"] == str(delivery.token):
            return
        before = self.hashes()
        answer = self.ledger.finish(delivery.job_id, delivery.token, "completed", {})
        assert answer.answer in ("again", "stale", "gone")
        assert self.hashes() == before
        self.check()

    def crash(self, number: int) -> None:
        """A run dies and nobody says so."""
        runs = [(worker, run) for worker in self.workers for run in worker.runs]
        found = pick(runs, number)
        if found:
            del found[0].runs[found[1]]
            self.steps["crash"] += 1

    def undeliver(self, number: int, which: int, end: bool, replay: bool) -> None:
        worker = pick([worker for worker in self.workers if worker.hand], number)
        delivery = pick(worker.hand, which) if worker else None
        if worker is None or delivery is None:
            return
        worker.hand.remove(delivery)
        job = self.model.jobs[delivery.job_id]
        valid = job.state == "dispatched" and self.token_of(delivery.job_id) == delivery.token

        def call() -> bool:
            return self.ledger.undeliver(delivery.job_id, delivery.token, "revoked", end)

        assert self.lost_reply(replay, call, same=False) == (valid and not replay)
        if valid:
            self.model.back(delivery.job_id, "canceled" if end else "waiting")
        self.check()

    def stop(self, number: int, kind: str, replay: bool) -> None:
        """Cancel or release a job in whatever state it is."""
        unfinished = [name for name, job in self.model.jobs.items() if job.state not in FINAL]
        job_id = pick(unfinished if number % 4 else list(self.jobs), number // 4)
        if job_id is None:
            return
        job = self.model.jobs[job_id]
        call = self.ledger.cancel if kind == "cancel" else self.ledger.release
        self.lost_reply(replay, lambda: call(job_id, "why", "me"), same=False)
        if job.state in ("running", "stopping"):
            job.state, job.stop = (
                "stopping",
                "cancel" if "cancel" in (kind, job.stop) else "release",
            )
        elif kind == "cancel" and job.state not in FINAL:
            self.model.back(job_id, "canceled")
        self.steps[f"{kind}"] += 1
        self.check()

    # -- workers -----------------------------------------------------------------------------------

    def join(self, queues: Sequence[int], slots: int, busy: int = 0) -> None:
        self.number += 1
        names = tuple(sorted({QUEUES[queue % len(QUEUES)] for queue in queues}))
        self.workers.append(Worker(f"w{self.number}@host:é", names, slots, busy))
        self.renew(len(self.workers) - 1)

    def renew(
        self,
        number: int,
        queues: Sequence[int] = (),
        slots: int | None = None,
        busy: int = 0,
        replay: bool = False,
    ) -> None:
        """A worker renews, perhaps with other queues or slots; one that was cut off is heard again."""
        worker = pick(self.workers, number)
        if worker is None:
            return
        worker.cut_off = False
        if queues:
            worker.queues = tuple(sorted({QUEUES[queue % len(QUEUES)] for queue in queues}))
        if slots is not None:
            worker.slots, worker.busy = slots, busy
        self._renew(worker, replay)
        # Runs the worker does not know any more may have been lost in this step.
        self.check(exact=self._unknown_runs(worker) == 0, expiry=True)

    def _renew(self, worker: Worker, replay: bool = False) -> None:
        began = self.mono()
        hand = [(item.job_id, item.token) for item in (*worker.runs, *worker.hand)]

        def call() -> Any:
            register = not worker.registered
            answer = self.ledger.renew(
                worker.name, worker.queues, worker.slots, worker.busy, hand, {"pid": 1}, register
            )
            # A repeated call comes a moment later.
            return replace(answer, silent={})

        answer = self.lost_reply(replay, call)
        self.steps[f"renew {answer.answer}"] += 1
        if answer.answer == "expired":
            worker.registered = False
            worker.runs.clear()
            self.model.workers.pop(worker.name, None)
            return
        worker.registered, worker.fence_at = True, began + LEASE - MARGIN
        self.model.workers[worker.name] = (worker.queues, max(0, worker.slots - worker.busy))
        for run in [run for run in worker.runs if run.job_id in answer.lost]:
            del worker.runs[run]
        for job_id, item in self.hashes().items():
            self.model.jobs[job_id].pool = tuple(item.get("pool", "").split())

    def _unknown_runs(self, worker: Worker) -> int:
        # Jobs the ledger had running on the worker, and the worker does not run.
        known = {run.job_id for run in worker.runs}
        return sum(
            1
            for job_id, item in self.before.items()
            if item.get("worker") == worker.name
            and item["state"] in ("running", "stopping")
            and job_id not in known
        )

    def cut_off(self, number: int) -> None:
        """A worker cannot reach the ledger; its runs go on until it ends them itself."""
        worker = pick(self.workers, number)
        if worker:
            worker.cut_off = True
            self.steps["cut off"] += 1

    def kill(self, number: int) -> None:
        """A worker dies at once, with what it had."""
        worker = pick(self.workers, number)
        if worker:
            worker.runs.clear()
            worker.hand.clear()
            self.workers.remove(worker)
            self.steps["kill"] += 1

    def leave(self, number: int, replay: bool = False) -> None:
        """A worker shuts down in order."""
        worker = pick([worker for worker in self.workers if not worker.cut_off], number)
        if worker is None:
            return
        worker.runs.clear()
        self.workers.remove(worker)
        self.lost_reply(replay, lambda: self.ledger.leave(worker.name))
        self.model.workers.pop(worker.name, None)
        self.check(exact=False, expiry=True)

    # -- time --------------------------------------------------------------------------------------

    def _shift(self, milliseconds: int) -> None:
        self.offset += milliseconds
        self.ledger.redis.hset(f"{self.ledger.prefix}meta", "clock_offset", self.offset)

    def pass_time(self, seconds: int, renewing: bool) -> None:
        """Time passes; workers that are not heard of end their runs before their leases end."""
        left = seconds * 1000
        while left > 0:
            part = min(left, MARGIN if renewing else left)
            left -= part
            self._shift(part)
            self.virtual += part
            for worker in self.workers:
                if self.mono() >= worker.fence_at:
                    worker.runs.clear()
            if renewing:
                for worker in self.workers:
                    if not worker.cut_off:
                        self._renew(worker)
                self.ledger.tick()
        self.tick()

    def jump(self, seconds: int) -> None:
        """Redis's clock steps: not twice between two renewals of a worker that runs something."""
        prefix = self.ledger.prefix
        stretched = {
            worker.name
            for worker in self.workers
            if self.ledger.redis.hget(f"{prefix}worker:{worker.name}", "stretched") == "1"
        }
        if any(worker.runs and worker.name in stretched for worker in self.workers):
            return
        healthy = {
            worker.name
            for worker in self.workers
            if worker.registered and self.mono() < worker.fence_at and worker.name not in stretched
        }
        # One that was lost to an earlier step and does not know it yet has nothing to lose.
        healthy &= set(self.ledger.redis.zrange(f"{prefix}workers", 0, -1))
        self._shift(seconds * 1000)
        self.steps["jump"] += 1
        self.tick()
        known = set(self.ledger.redis.zrange(f"{self.ledger.prefix}workers", 0, -1))
        assert healthy <= known, f"a step of the clock took the jobs of {healthy - known}"

    def tick(self) -> None:
        """Time-driven steps; what they did is checked against the rules, not predicted."""
        start = self.now()
        self.ledger.tick()
        workers = set(self.ledger.redis.zrange(f"{self.ledger.prefix}workers", 0, -1))
        self.model.workers = {
            name: item for name, item in self.model.workers.items() if name in workers
        }
        self.model.holds = set(self.ledger.holds())
        self.model.limits, self.model.overrides = self._limits("limits"), self._limits("overrides")
        for job_id, item in self.hashes().items():
            if item.get("state") == "delayed":
                assert float(item["due"]) > start, f"{job_id} was due"
            if item.get("state") in ("delayed", "waiting") and "expires" in item:
                assert float(item["expires"]) > start, f"{job_id} has expired"
        self.check(exact=False, expiry=True)

    def _limits(self, name: str) -> dict[str, int]:
        raw = self.ledger.redis.hgetall(f"{self.ledger.prefix}{name}")
        return {resource: int(value) for resource, value in raw.items()}

    # -- resources ---------------------------------------------------------------------------------

    def resource(self, number: int) -> str:
        known = [f"model:{name}" for name in MODELS] + [f"queue:{name}" for name in QUEUES]
        known += ["serial", *(f"org:{QUEUES[0]}/{org}" for org in self.orgs if org)]
        return known[number % len(known)]

    def hold(self, number: int, seconds: int, replay: bool) -> None:
        resource = self.resource(number)
        until = int(self.now()) + seconds * 1000 if seconds else None
        self.lost_reply(replay, lambda: self.ledger.hold(resource, "me", "why", until))
        self.model.holds.add(resource)
        self.check()

    def resume(self, number: int, replay: bool = False) -> None:
        resource = self.resource(number)
        self.lost_reply(replay, lambda: self.ledger.resume(resource, "me"), same=False)
        self.model.holds.discard(resource)
        self.check()

    def limit(self, number: int, value: int | None, seconds: int, replay: bool) -> None:
        """Set a limit; those of models are only lowered, so that an overlap stays one."""
        resource = self.resource(number)
        if resource.startswith("model:") and value is not None:
            value = min(value, 1)
        until = int(self.now()) + seconds * 1000 if seconds else 0
        self.lost_reply(replay, lambda: self.ledger.limit(resource, value, "me", "", until))
        if value is None:
            self.model.overrides.pop(resource, None)
            if not seconds:
                self.model.limits.pop(resource, None)
        elif seconds:
            self.model.overrides[resource] = value
        else:
            self.model.limits[resource] = value
        self.check()

    def configure(self, values: dict[str, int | None]) -> None:
        """Set configured limits and times; None removes one."""
        self.ledger.configure({name: "" if v is None else str(v) for name, v in values.items()})
        for name, value in values.items():
            self.model.defaults.pop(name, None)
            if value is not None:
                self.model.defaults[name] = value
        self.check()

    # -- the store's side --------------------------------------------------------------------------

    def settle(self, count: int = 10_000) -> None:
        """The store takes events; each is a move that the chart knows."""
        events = self.ledger.read_events(count)
        for event in events:
            state = event.data.get("state")
            if not event.job_id or state is None:
                continue
            before = self.states.get(event.job_id)
            # A job that was replaced by a canvas begins a new life under its id.
            known = None if event.verb == "submitted" else before
            move = (State(known) if known else None, Verb(event.verb), State(state))
            assert move in TRANSITIONS or move[0] == move[2] == State.STOPPING, move
            assert event.version > self.versions.get(event.job_id, 0), event
            if event.verb == "dispatched":
                assert event.data["token"] > self.token, "tokens only grow"
                self.token = event.data["token"]
            self.versions[event.job_id], self.states[event.job_id] = event.version, state
            if state in FINAL and event.verb != "replaced":
                self.settled.add(event.job_id)
            else:
                self.settled.discard(event.job_id)
        if events:
            self.lost_reply(True, lambda: self.ledger.settle(events))
        self.check()

    def drain(self) -> None:
        """With workers and time enough everything ends, and nothing is left."""
        self._lift_everything()
        self.join(range(len(QUEUES)), 4)
        for round_ in range(300):
            self._work_off()
            states = {job.state for job in self.model.jobs.values()}
            if states <= FINAL and all(not worker.hand for worker in self.workers):
                break
            if round_ > 3:
                self._shift(5_000_000)
        self.every = 1
        left = {name: job.state for name, job in self.model.jobs.items() if job.state not in FINAL}
        assert not left, f"never ended: {left}"
        for name in QUEUES:
            assert self.ledger.redis.llen(name) == 0, f"a message is left in {name}"
        self.settle()
        for number in reversed(range(len(self.workers))):
            self.leave(number)
        for _ in range(2):
            self.pass_time(2 * LEASE // 1000, renewing=False)
        self._check_nothing_left()

    def _lift_everything(self) -> None:
        for name in self.ledger.holds():
            self.ledger.resume(name, "drain")
        for name in {**self._limits("limits"), **self._limits("overrides")}:
            self.ledger.limit(name, None, "drain")
        settings = ("serial", "org", "org:alpha", *(f"queue:{queue}" for queue in QUEUES))
        self.ledger.configure(dict.fromkeys(settings, ""))
        self.model.limits, self.model.overrides, self.model.holds = {}, {}, set()
        self.model.defaults = {"model": 1}
        for worker in self.workers:
            worker.cut_off = False
        self.check(exact=False, expiry=True)

    def _work_off(self) -> None:
        for number in range(len(self.workers)):
            self.renew(number)
        self.tick()
        for number, worker in enumerate(self.workers):
            for queue in range(len(worker.queues)):
                self.pop(number, queue)
        while any(worker.hand for worker in self.workers):
            self.claim(0, 0)
        while any(worker.runs for worker in self.workers):
            self.finish(0, "completed")

    def _check_nothing_left(self) -> None:
        prefix = self.ledger.prefix
        left = {key.removeprefix(prefix) for key in self.ledger.redis.scan_iter(f"{prefix}*")}
        # Replaced jobs may live on; of settled ones a trace is left that goes by itself.
        jobs = {f"job:{job_id}" for job_id in (*self.replaced, *self.settled)}
        for job_id in self.settled - self.replaced:
            assert self.ledger.redis.ttl(f"{prefix}job:{job_id}") >= 0, job_id
        known = {
            "meta",
            "defaults",
            "limits",
            "overrides",
            "holds",
            "ends",
            "runtimes",
            "events",
            "counts",
        }
        assert left <= known | jobs, left - known - jobs
        assert len(self.ledger.counts()) <= len(self.replaced)

    def close(self) -> None:
        self.ledger.pool.disconnect()

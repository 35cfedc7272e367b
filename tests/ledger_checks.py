"""What must be true of a ledger and everything around it after every step.

What runs is recorded here, as the bodies of tasks would, so that an overlap is seen even if the ledger
believes there is none.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.verification import verify
from tests.ledger_model import FINAL, HOLDING, Model

T = TypeVar("T")

MODELS = ("m0", "m1", 'm"2:/%', "üé")
QUEUES = ("alpha", "be.ta%d", 'gam:"m"')
LEASE = 30_000
#: What the worker ends its jobs before the lease, in milliseconds; steps of the clock up to it are covered.
MARGIN = 2_000


@dataclass(frozen=True)
class Delivery:
    job_id: str
    token: int


@dataclass
class Worker:
    """A worker process as it sees itself.

    Attributes:
        runs: deliveries whose bodies are executing, and the models each works on.
        hand: deliveries popped from the broker and not begun.
        fence_at: when it kills its runs because it could not renew, on a clock that never steps.
    """

    name: str
    queues: tuple[str, ...]
    slots: int
    busy: int = 0
    registered: bool = False
    cut_off: bool = False
    fence_at: float = 0
    runs: dict[Delivery, tuple[str, ...]] = field(default_factory=dict)
    hand: list[Delivery] = field(default_factory=list)


def message_of(job_id: str) -> str:
    return f'{{"body":"W10=","headers":{{"id":{json.dumps(job_id)},"note":"\u00e4 \\"}}}}"'


def pick(items: Sequence[T], number: int) -> T | None:
    return items[number % len(items)] if items else None


class Observed:
    """One ledger, what its surroundings know of it, and the checks after every step.

    Args:
        url: an empty Redis.
        orgs: organisations of the jobs; with a single one the model predicts every start exactly.
        every: steps from one verification of the whole ledger to the next; the checks of starts, runs and states
            come after every step.
    """

    def __init__(
        self, url: str, orgs: Sequence[str | None] = (None,), prefix: str = "t:", every: int = 1
    ) -> None:
        self.ledger = Ledger(url, prefix)
        self.every, self.checks = every, 0
        self.orgs, self.exact = orgs, len(orgs) == 1
        self.model = Model()
        self.workers: list[Worker] = []
        self.jobs: dict[str, Job] = {}
        self.settled: set[str] = set()
        self.replaced: set[str] = set()
        self.gone: list[tuple[Delivery, str, str]] = []
        self.steps: Counter[str] = Counter()
        self.virtual = 0.0
        self.offset = 0
        self.number = 0
        self.states: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.token = self.highest = 0
        self.before: dict[str, dict[str, str]] = {}

    # -- what is there -----------------------------------------------------------------------------

    def hashes(self) -> dict[str, dict[str, str]]:
        pipeline = self.ledger.redis.pipeline(transaction=False)
        # What the store has can only come back as a new life, after which it is settled no more.
        known = {} if self.checks % self.every == 0 else self.before
        wanted = [name for name in self.jobs if name not in self.settled or name not in known]
        for job_id in wanted:
            pipeline.hgetall(f"{self.ledger.prefix}job:{job_id}")
        found = dict(zip(wanted, pipeline.execute(), strict=True))
        return {name: found[name] if name in found else known[name] for name in self.jobs}

    def now(self) -> float:
        seconds, micros = self.ledger.redis.time()
        return float(seconds) * 1000 + float(micros) / 1000 + self.offset

    def mono(self) -> float:
        return time.monotonic() * 1000 + self.virtual

    def token_of(self, job_id: str) -> int:
        return int(self.before.get(job_id, {}).get("token", 0))

    def alive(self, worker: Worker) -> bool:
        lease = self.ledger.redis.zscore(f"{self.ledger.prefix}workers", worker.name)
        return lease is not None and lease > self.now()

    def lost_reply(self, replay: bool, call: Callable[[], T], same: bool = True) -> T:
        """Make a call; with ``replay`` its reply is lost, so that it is made again."""
        first = call()
        if not replay:
            return first
        before = self.hashes()
        second = call()
        assert self.hashes() == before, "a repeated call changed a job"
        if same:
            assert second == first, (first, second)
        self.steps["replay"] += 1
        return second

    # -- checks ------------------------------------------------------------------------------------

    def check(self, exact: bool = True, expiry: bool = False) -> None:
        """Compare ledger, model and surroundings after a step.

        Args:
            exact: whether the model was told what happened and predicts the state of every job.
            expiry: whether several runs ended in this step, so that limits moved within it.
        """
        after = self.hashes()
        if exact and self.exact:
            self.model.admit()
            for job_id, job in self.model.jobs.items():
                found = after[job_id].get("state", job.state)
                assert found == job.state, f"{job_id} is {found}, not {job.state}"
        self._adopt(after)
        self._check_starts(after, expiry)
        self._check_runs()
        self.checks += 1
        if self.checks % self.every == 0:
            drifts = verify(self.ledger)
            assert not drifts, drifts
        self.before = after

    def _adopt(self, after: dict[str, dict[str, str]]) -> None:
        for job_id, item in after.items():
            if not item:
                assert job_id in self.settled, f"{job_id} is lost"
                continue
            job = self.model.jobs[job_id]
            old = self.before.get(job_id, {})
            if old.get("state") in FINAL and "replaced" not in old:
                assert item["state"] == old["state"], f"{job_id} left its end"
            job.state, job.stop = item["state"], item.get("stop", "")
            job.pool = tuple(item.get("pool", "").split())
            job.losses, job.retries = int(item.get("losses", 0)), int(item.get("retries", 0))
            held = set(item.get("held", "").split())
            assert held == (set(job.needs) if job.state in HOLDING else set()), job_id
            self.highest = max(self.highest, int(item.get("token", 0)))
            if old:
                assert int(item["version"]) >= int(old["version"])
                # A new life of a replaced job begins without one.
                assert int(item.get("token", self.highest)) >= int(old.get("token", 0))
        for job_id, job in self.model.jobs.items():
            if job.state == "waiting":
                waits = self.model.obstacle(job.needs)
                assert waits, f"{job_id} waits for nothing"

    def _check_starts(self, after: dict[str, dict[str, str]], expiry: bool) -> None:
        """First in, first out in a class; never more holders than the limit at admission."""
        started: list[tuple[str, bool]] = []
        left: dict[tuple[int, tuple[str, ...]], int] = {}
        for job_id, item in after.items():
            job, old = self.model.jobs[job_id], self.before.get(job_id, {})
            waited = old.get("state") == "waiting"
            if item.get("state") == "dispatched" and item.get("token") != old.get("token"):
                started.append((job_id, waited))
            elif waited and item.get("state") == "waiting" and item["version"] == old["version"]:
                kin = (job.priority, job.needs)
                left[kin] = min(left.get(kin, job.order), job.order)
        for job_id, waited in started:
            job = self.model.jobs[job_id]
            if waited:
                assert job.order < left.get((job.priority, job.needs), job.order + 1), job_id
            for resource in job.needs:
                limit = self.model.limit(resource)
                if limit is not None and not expiry:
                    assert len(self.model.holders(resource)) <= limit, resource
        if len(started) == 1 and not expiry:
            # Of several, one may take what another's queue shares: the model judges them one by one.
            queue = self.model.jobs[started[0][0]].queue
            assert self.model.free(queue) >= 0, f"more was dispatched than {queue} has slots"

    def _check_runs(self) -> None:
        running: dict[str, Delivery] = {}
        for worker in self.workers:
            for delivery, models in worker.runs.items():
                for model in models:
                    other = running.setdefault(model, delivery)
                    assert other == delivery, f"{other} and {delivery} run at once on {model}"

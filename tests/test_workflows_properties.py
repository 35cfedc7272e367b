"""Any order of steps, jobs, losses, pauses and cancels: an execution that has begun shares its models with nobody."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from coordinator.verification import verify
from tests.ledger_driver import Driver, at

__all__ = ["at"]

MODELS = "abcd"
QUEUES = ("q", "r")
STEPS = 150
HOLDING = ("dispatched", "running", "stopping")


@dataclass
class Flow:
    """An execution as it should be: what it holds once it has begun, and the job of its present step."""

    owner: str
    models: list[str]
    left: int
    job: str
    keeps: bool
    begun: bool = False
    over: bool = False


@dataclass
class World:
    """The ledger, and what must be true of it."""

    at: Driver
    draw: random.Random
    flows: list[Flow] = field(default_factory=list)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    number: int = 0

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.number}"

    def some(self) -> list[str]:
        return sorted(self.draw.sample(MODELS, self.draw.choice([1, 1, 2, 3])))

    def submit_job(self) -> None:
        name = self.name("job")
        self.jobs[name] = self.some()
        self.at.submit(name, *self.jobs[name], queue=self.draw.choice(QUEUES))

    def submit_flow(self) -> None:
        owner, models = self.name("workflow"), self.some()
        flow = Flow(
            owner, models, self.draw.randrange(1, 4), f"{owner}.0", self.draw.random() < 0.8
        )
        self.flows.append(flow)
        self.at.submit(flow.job, *models, owner=owner, queue=self.draw.choice(QUEUES))

    def start_all(self) -> None:
        for name in [*self.jobs, *(flow.job for flow in self.flows if not flow.over)]:
            if name not in self.running and self.at.state(name) == "dispatched":
                self.start(name)

    def start(self, name: str) -> None:
        token = self.at.token(name)
        self.at.redis.lrem(self.at.state(name, "queue"), 1, self.at.delivery(name))
        self.number += 1
        # Refused when what it needs was paused since: it waits again.
        if self.at.ledger.claim(name, token, f"n{self.number}", "w").granted:
            self.running[name] = token

    def end_one(self) -> None:
        if not self.running:
            return
        name = self.draw.choice(sorted(self.running))
        token = self.running.pop(name)
        flow = next((one for one in self.flows if one.job == name), None)
        outcome = self.draw.choice(["completed"] * 6 + ["failed", "lost", "retried"])
        successor, keep_ms = None, None
        if outcome == "retried":
            models = flow.models if flow else self.jobs[name]
            owner = flow.owner if flow else ""
            successor = self.at.job(name, *models, owner=owner, queue="q", retries=1)
        elif outcome == "completed" and flow is not None and flow.left > 1:
            models = [self.draw.choice(flow.models)] if flow.keeps else flow.models
            keep_ms = None if flow.keeps else 0
            following = f"{flow.owner}.{flow.left}"
            queue = self.draw.choice(QUEUES)
            successor = self.at.job(following, *models, owner=flow.owner, queue=queue)
        answer = self.at.ledger.finish(name, token, outcome, {}, successor, keep_ms=keep_ms)
        assert answer.answer == "done"
        if flow is None or successor is None or outcome != "completed":
            return
        # Not when it was canceled while it ran: then nothing follows.
        if self.at.state(name) == "completed":
            flow.left, flow.job = flow.left - 1, successor.job_id
            flow.begun = flow.begun and flow.keeps

    def cancel_one(self) -> None:
        names = sorted([*self.jobs, *(flow.job for flow in self.flows)])
        if names:
            self.at.ledger.cancel(self.draw.choice(names), "no", "ann")

    def pause(self) -> None:
        resource = self.draw.choice(["queue:q", "queue:r", "model:a"])
        if self.draw.random() < 0.3:
            self.at.ledger.hold(resource, "ann")
        self.at.ledger.resume(self.draw.choice(["queue:q", "queue:r", "model:a"]), "ann")

    def check(self) -> None:
        ledger = self.at.ledger
        holders = {model: ledger.holders(f"model:{model}") for model in MODELS}
        for model, owners in holders.items():
            assert len(owners) <= 1, (model, owners)
        for flow in self.flows:
            state = self.at.state(flow.job)
            if state in ("completed", "failed", "unprocessable", "canceled", "gone"):
                flow.over = True
                assert ledger.owned(flow.owner) == set(), (flow, state)
                assert ledger.members(flow.owner) == set(), (flow, state)
                continue
            flow.begun = flow.begun or state in HOLDING
            # A step that holds its own alone has nothing while it waits.
            if flow.begun and (flow.keeps or state in HOLDING):
                for model in flow.models:
                    assert holders[model] == {flow.owner}, (flow, state)
        assert not verify(ledger)

    def drain(self) -> None:
        for resource in ("queue:q", "queue:r", "model:a"):
            self.at.ledger.resume(resource, "ann")
        for _ in range(400):
            # Goes on with the wakes that a script has left.
            self.at.ledger.tick()
            self.start_all()
            if not self.running:
                break
            self.end_one()
            self.check()
        unfinished = [flow for flow in self.flows if not flow.over]
        assert not unfinished
        left = {name: self.at.state(name) for name in self.jobs}
        assert set(left.values()) <= {"completed", "failed", "unprocessable", "canceled"}, left


@pytest.mark.parametrize("seed", range(4))
def test_executions_keep_their_models_and_give_them_back(at: Driver, seed: int) -> None:
    at.work(queues=QUEUES, slots=5)
    world = World(at, random.Random(seed))
    acts = [world.submit_job, world.submit_flow, world.cancel_one, world.pause]
    for _ in range(STEPS):
        act = world.draw.choice([*acts, world.start_all, world.end_one, world.end_one])
        act()
        world.check()
    world.drain()

"""Workflows while workers are killed and Redis forgets: they go on or fail as a whole, and nobody else gets in."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from coordinator import Step, Workflow, register_workflow
from coordinator.operations.execution_view import Execution
from coordinator.verification import verify
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation, Worker

pytest_plugins = ["tests.workers"]

PATIENCE = 60
LEASE = 2
FAST = {"coordinator_lease_seconds": LEASE}


@pytest.fixture
def own(alone: Installation) -> Iterator[Installation]:
    alone.conf |= FAST
    yield alone
    assert not verify(alone.work_queue.ledger)


def play(name: str, *acts: Any, models: Any = (), **more: Any) -> Step:
    return Step(name, "play", models=models, args=[list(act) for act in acts], **more)


def execute(own: Installation, *steps: Step, name: str = "flow", **more: Any) -> Execution:
    queue = own.work_queue
    if name not in {workflow.name for workflow in queue.get_workflows()}:
        register_workflow(own.app, Workflow(name, steps, **more))
    return queue.execute_workflow(name)


def job_of(execution: Execution, step: str) -> str:
    return f"{execution.execution_id}.{step}"


def ends(own: Installation, execution: Execution, status: str = "COMPLETED") -> Execution:
    def check() -> Execution:
        found = own.work_queue.get_execution(execution.execution_id)
        states = [(step.step, step.status, step.error) for step in found.details]
        assert found.status == status, states
        return found

    return eventually(check, PATIENCE)


def kill(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)


def test_a_worker_killed_in_a_step_does_not_lose_the_models(own: Installation) -> None:
    model, gate = own.model(), own.gate()
    with ExitStack() as stack:
        first = stack.enter_context(own.worker())
        steps = (play("one", models=model), play("two", ["block", gate], models=model))
        begun = execute(own, *steps, play("three", ["give", 3], models=model))
        own.starts(job_of(begun, "two"))
        stranger = own.play(["give", 1], model=model)
        kill(first)
        stack.enter_context(own.worker())
        own.starts(job_of(begun, "two"), runs=2)
        assert own.work_queue.ledger.holders(f"model:{model}") == {begun.execution_id}
        own.open(gate)
        done = ends(own, begun)
        assert [step.attempts for step in done.details] == [1, 2, 1]
        assert own.get(stranger) == 1


def test_a_worker_killed_between_two_steps_changes_nothing(own: Installation) -> None:
    model = own.model()
    with ExitStack() as stack:
        first = stack.enter_context(own.worker())
        begun = execute(own, play("one", models=model), play("two", models=model, queue="selfplay"))
        own.becomes(job_of(begun, "two"), "waiting")
        stranger = own.play(["give", 1], model=model)
        kill(first)
        stack.enter_context(own.worker(queues=("work", "selfplay")))
        ends(own, begun)
        assert own.get(stranger) == 1
        two, after = own.trace(job_of(begun, "two"))[-1], own.trace(stranger)[0]
        assert two["at"] <= after["at"]


def test_a_step_that_kills_its_process_each_time_ends_the_execution(own: Installation) -> None:
    model = own.model()
    with own.worker():
        begun = execute(
            own,
            play("one", models=model),
            play("two", ["die"], models=model, max_retries=1),
            play("three", models=model),
        )
        stranger = own.play(["give", 1], model=model)
        ended = ends(own, begun, "UNPROCESSABLE")
        assert [step.status for step in ended.details] == ["COMPLETED", "UNPROCESSABLE", None]
        assert own.get(stranger) == 1
        own.ends(own.app.AsyncResult(job_of(begun, "two")), "FAILURE")


@pytest.mark.parametrize("moment", ["between", "running"])
def test_redis_forgets_in_the_middle_of_an_execution(own: Installation, moment: str) -> None:
    """A stranger that was submitted before the wipe, and one after it, stay behind the execution."""
    model, gate = own.model(), own.gate()
    queue = own.work_queue
    with ExitStack() as stack:
        stack.enter_context(own.worker())
        second = play("two", ["wait", gate], models=model)
        if moment == "between":
            second = play("two", models=model, queue="selfplay")
        begun = execute(own, play("one", models=model), second, play("three", models=model))
        if moment == "between":
            own.becomes(job_of(begun, "two"), "waiting")
        else:
            own.starts(job_of(begun, "two"))
        strangers = [own.play(["give", 1], model=model)]
        queue.catch_up()
        own.redis.flushall()
        strangers.append(own.play(["give", 2], model=model))

        def open_again() -> bool:
            return bool(own.redis.hget("coordinator:meta", "open") == "1")

        eventually(open_again, PATIENCE)
        own.waits(strangers)
        holders = queue.ledger.holders(f"model:{model}")
        assert holders == {begun.execution_id}
        assert queue.why(strangers[0].id).reason == (
            f"Model conflict: {model} in use by workflow job {begun.execution_id}"
        )
        own.open(gate)
        stack.enter_context(own.worker(queues=("selfplay",)))
        done = ends(own, begun)
        assert [own.get(stranger) for stranger in strangers] == [1, 2]
        last = own.trace(job_of(done, "three"))[-1]["at"]
        assert all(own.trace(stranger)[0]["at"] >= last for stranger in strangers)
        assert [own.runs(job_of(done, step)) for step in ("one", "two", "three")] == [1, 1, 1]


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_any_moment(own: Installation, seed: int) -> None:
    """Also in a finish, which a run of milliseconds spends much of its time in."""
    draw = random.Random(seed)
    models = [own.model() for _ in range(2)]
    queue = own.work_queue
    for number in range(6):
        step = [models[number % 2]] if number % 3 else models
        steps = [play(f"s{place}", ["give", place], models=step) for place in range(4)]
        register_workflow(own.app, Workflow(f"flow{number}", steps))
    begun = [queue.execute_workflow(f"flow{number}") for number in range(6)]
    jobs = [own.play(["give", 1], model=model) for model in models * 2]

    def unfinished() -> bool:
        return any(queue.get_execution(one.execution_id).finished_at is None for one in begun)

    kills = 0
    while unfinished() and kills < 6:
        with own.worker(concurrency=3) as worker:
            before = len(list((own.folder / "trace").iterdir()))
            enough = before + draw.randrange(1, 4)

            def so_far(enough: int = enough) -> bool:
                return len(list((own.folder / "trace").iterdir())) >= enough or not unfinished()

            eventually(so_far, PATIENCE)
            kill(worker)
            kills += 1
    with own.worker(concurrency=3):
        for one in begun:
            ends(own, one)
        assert [own.get(job) for job in jobs] == [1] * 4
    assert kills
    ledger = queue.ledger
    assert not any(ledger.holders(f"model:{model}") for model in models)
    # On one model executions and jobs came one after the other, each from its first step to its last.
    for model in models:
        traces = [
            [line for place in range(4) for line in own.trace(job_of(one, f"s{place}"))]
            for one in begun
            if model in one.required_models
        ]
        traces += [own.trace(job) for job in jobs]
        traces = [lines for lines in traces if model in lines[0]["models"]]
        spans = sorted((min(_times(lines)), max(_times(lines))) for lines in traces)
        assert len(spans) >= 4
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def _times(lines: list[dict[str, Any]]) -> list[float]:
    return [line["at"] for line in lines]

"""Workflows with real workers: steps, what they hand on, what they hold, and what ends them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coordinator import Step, Workflow, register_workflow
from coordinator.executions import Execution
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

PATIENCE = 30


def define(own: Installation, *steps: Step, **more: Any) -> str:
    """Register a workflow of a new name; returns the name."""
    name = f"w-{uuid.uuid4().hex[:8]}"
    register_workflow(own.app, Workflow(name, steps, **more))
    return name


def play(name: str, *acts: Sequence[Any], models: Any = (), **more: Any) -> Step:
    return Step(name, "play", models=models, args=[list(act) for act in acts], **more)


def job_of(execution: Execution, step: str) -> str:
    return f"{execution.execution_id}.{step}"


def ends(own: Installation, execution: Execution, status: str) -> Execution:
    def check() -> Execution:
        found = own.work_queue.get_execution(execution.execution_id)
        assert found.status == status, [
            (step.step, step.status, step.error) for step in found.details
        ]
        return found

    return eventually(check, PATIENCE)


def free(own: Installation, *models: str) -> bool:
    return not any(own.work_queue.ledger.holders(f"model:{model}") for model in models)


def test_steps_run_in_their_order_and_hand_on_their_results(shared: Installation) -> None:
    one, two = shared.model(), shared.model()
    name = define(
        shared,
        play("first", ["give", {"path": "/x", "sizes": [3, 4]}, {}], models="{model}"),
        play("second", ["give", "{first.sizes[1]}"], models=[two]),
        Step("third", "add", args=["{second}", "{more}"], models=()),
        play("fourth", ["give", "{first.path}-{third} {{as is}}"], models=()),
        required=["model"],
        defaults={"more": 10},
    )
    begun = shared.work_queue.execute_workflow(name, {"model": one}, by="ann", reason="nightly")
    assert begun.required_models == tuple(sorted((one, two)))
    done = ends(shared, begun, "COMPLETED")
    assert [step.result for step in done.details][2:] == ["14", "'/x-14 {as is}'"]
    assert [step.status for step in done.details] == ["COMPLETED"] * 4
    assert (done.requested_by, done.reason, done.current_step) == ("ann", "nightly", "fourth")
    starts = [shared.trace(job_of(done, step))[0]["at"] for step in ("first", "second", "fourth")]
    assert starts == sorted(starts)
    # Every run held the models of all steps.
    held = [shared.trace(job_of(done, step))[0]["models"] for step in ("first", "second", "fourth")]
    assert held == [list(begun.required_models)] * 3
    assert free(shared, one, two)
    assert shared.app.AsyncResult(job_of(done, "fourth")).get(timeout=PATIENCE) == "/x-14 {as is}"
    (entry,) = shared.work_queue.get_audit(event="executed", job_id=done.execution_id)
    assert (entry.who, entry.why) == ("ann", "nightly")

"""Workflows with real workers: steps, what they hand on, what they hold, and what ends them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from kombu.utils.json import dumps, loads

from coordinator import InvalidValue, Refused, Step, Workflow, register_workflow
from coordinator.errors import UnknownExecution, UnknownWorkflow
from coordinator.operations.execution_view import Execution
from tests.helpers import eventually

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry
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


def noted(own: Installation, event: str, job_id: str | None) -> AuditEntry:
    """The one entry of the log for an event of a job; the recorder writes it a moment later."""

    (entry,) = eventually(lambda: own.work_queue.get_audit(event=event, job_id=job_id), PATIENCE)
    return entry


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
    entry = noted(shared, "executed", done.execution_id)
    assert (entry.who, entry.why) == ("ann", "nightly")


def test_a_workflow_and_a_job_conflict_as_two_jobs_do(shared: Installation) -> None:
    """In both orders, and two workflows as well."""
    queue, model, gate = shared.work_queue, shared.model(), shared.gate()
    name = define(shared, play("one", ["wait", gate], models=model), play("two", models=model))
    first = queue.execute_workflow(name)
    shared.starts(job_of(first, "one"))
    job = shared.play(model=model)
    reason = f"Model conflict: {model} in use by workflow job {first.execution_id}"
    why = queue.why(job.id)
    assert (why.reason, why.blocker, why.position) == (reason, first.execution_id, 1)
    queue.catch_up()
    record = queue.get_job(job.id)
    assert (record.conflict_reason, record.blocked_by_job_id) == (reason, first.execution_id)
    second = queue.execute_workflow(name)
    assert (second.status, second.conflict_reason) == ("PENDING", reason)
    assert (second.blocked_by_job_id, second.queue_position) == (first.execution_id, 2)
    shared.open(gate)
    ends(shared, first, "COMPLETED")
    shared.get(job)
    done = ends(shared, second, "COMPLETED")
    # First in, first out: neither the job nor the other workflow came between two steps.
    times = [
        shared.trace(job_id)[0]["at"]
        for job_id in (job_of(first, "two"), job.id, job_of(done, "one"), job_of(done, "two"))
    ]
    assert times == sorted(times)


def test_a_job_keeps_a_workflow_waiting(shared: Installation) -> None:
    queue, gate = shared.work_queue, shared.gate()
    model, other = shared.model(), shared.model()
    job = shared.play(["wait", gate], model=model)
    shared.starts(job)
    name = define(shared, play("one", models=other), play("two", models=model))
    begun = queue.execute_workflow(name)
    reason = f"Model conflict: {model} in use by normal job {job.id}"
    assert (begun.status, begun.conflict_reason) == ("PENDING", reason)
    assert (begun.blocked_by_job_id, begun.current_step) == (job.id, "one")
    assert begun.current_step_model == other
    # All or nothing: what it cannot use yet stays free.
    assert shared.get(shared.play(["give", 1], model=other)) == 1
    shared.open(gate)
    ends(shared, begun, "COMPLETED")


def test_each_step_may_hold_its_own_models_alone(shared: Installation) -> None:
    queue, gate = shared.work_queue, shared.gate()
    one, two = shared.model(), shared.model()
    name = define(
        shared,
        play("one", ["wait", gate], models=one),
        play("two", ["wait", gate + "x"], models=two),
        hold="step",
    )
    begun = queue.execute_workflow(name)
    assert begun.required_models == tuple(sorted((one, two)))
    shared.starts(job_of(begun, "one"))
    assert shared.get(shared.play(["give", 1], model=two)) == 1
    waits = shared.play(["give", 2], model=one)
    shared.waits([waits])
    shared.open(gate)
    shared.starts(job_of(begun, "two"))
    assert shared.get(waits) == 2
    assert not free(shared, two)
    shared.open(gate + "x")
    ends(shared, begun, "COMPLETED")
    assert free(shared, one, two)


def test_a_step_is_retried_and_a_failure_ends_all(shared: Installation) -> None:
    model = shared.model()
    name = define(
        shared,
        play("one", ["fail", "ValueError", "as told", 2], ["give", 5], models=model),
        play("two", ["fail", "NotRetryable"], models=model),
        play("three", models=model),
    )
    begun = shared.work_queue.execute_workflow(name)
    failed = ends(shared, begun, "FAILED")
    assert failed.error == "NotRetryable: as told"
    assert [step.status for step in failed.details] == ["COMPLETED", "FAILED", None]
    assert failed.details[0].attempts == 3
    assert free(shared, model)
    # Resubmitted, the step goes on where the execution failed; it fails again.
    shared.work_queue.resubmit_job(failed.current_job_id)
    again = eventually(lambda: _attempts(shared, begun, 2), PATIENCE)
    assert again.status == "FAILED"
    assert free(shared, model)


def _attempts(own: Installation, execution: Execution, number: int) -> Execution:
    found = own.work_queue.get_execution(execution.execution_id)
    assert found.details[found.current_position - 1].attempts == number
    assert found.finished_at is not None
    return found


def test_a_step_has_options_of_its_own(shared: Installation) -> None:
    model = shared.model()
    options: dict[str, Any] = {"max_retries": 1, "retry_delays": [0], "timeout": 20}
    name = define(shared, play("one", ["fail", "ValueError"], models=model, **options))
    begun = shared.work_queue.execute_workflow(name)
    failed = ends(shared, begun, "UNPROCESSABLE")
    assert failed.details[0].attempts == 2
    job = shared.work_queue.get_job(failed.current_job_id)
    assert (job.max_retries, job.timeout) == (1, 20)


def test_a_step_that_was_failed_goes_on_when_it_is_resubmitted(shared: Installation) -> None:
    model = shared.model()
    name = define(
        shared,
        play("one", ["fail", "NotRetryable"], models=model),
        play("two", ["give", "{one}"], models=model),
    )
    begun = shared.work_queue.execute_workflow(name)
    failed = ends(shared, begun, "FAILED")
    shared.work_queue.resubmit_job(failed.current_job_id, args=[["give", 9]])
    done = ends(shared, begun, "COMPLETED")
    assert done.details[1].result == "9"


def test_a_next_step_that_cannot_be_made_fails_the_execution(shared: Installation) -> None:
    """By a result without what is looked up in it, and by one that no message can carry."""
    model = shared.model()
    name = define(
        shared,
        play("one", ["give", {"a": 1}, {}], models=model),
        play("two", ["give", "{one.b}"], models=model),
    )
    begun = shared.work_queue.execute_workflow(name)
    failed = ends(shared, begun, "FAILED")
    assert failed.current_step == "one"
    assert "a key of one, which is {'a': 1}" in str(failed.error)
    assert free(shared, model)
    result = shared.app.AsyncResult(job_of(begun, "one"))
    shared.ends(result, "FAILURE")


@pytest.mark.parametrize("moment", ["waits", "runs", "between"])
def test_an_execution_is_canceled(shared: Installation, moment: str) -> None:
    queue, model, gate = shared.work_queue, shared.model(), shared.gate()
    acts = [["wait", gate]] if moment == "runs" else []
    name = define(
        shared,
        play("one", *acts, models=model),
        play("two", models=model, queue="selfplay" if moment == "between" else None),
    )
    if moment == "waits":
        with shared.held(model):
            begun = queue.execute_workflow(name)
            assert queue.cancel_execution(begun.execution_id, "enough", "ann") == "canceled"
    elif moment == "runs":
        begun = queue.execute_workflow(name)
        shared.starts(job_of(begun, "one"))
        assert queue.cancel_execution(begun.execution_id, "enough", "ann") == "stopping"
    else:
        begun = queue.execute_workflow(name)
        shared.becomes(job_of(begun, "two"), "waiting")
        assert shared.work_queue.ledger.holders(f"model:{model}") == {begun.execution_id}
        assert queue.cancel_execution(begun.execution_id, "enough", "ann") == "canceled"
    ended = ends(shared, begun, "CANCELED")
    assert free(shared, model)
    entry = noted(shared, "canceled", ended.current_job_id)
    assert (entry.who, entry.why) == ("ann", "enough")
    assert shared.runs(job_of(begun, "two")) == 0
    with pytest.raises(Refused, match="has ended: it is CANCELED"):
        queue.cancel_execution(begun.execution_id)


def test_a_paused_queue_is_named_and_the_hold_may_end(shared: Installation) -> None:
    """The next step's queue has no worker, then is paused; others get the model after a while."""
    queue, model = shared.work_queue, shared.model()
    other = "training"
    steps = (play("one", models=model), play("two", models=model, queue=other))
    kept = queue.execute_workflow(define(shared, *steps))
    shared.becomes(job_of(kept, "two"), "waiting")
    queue.pause(other, reason="inspection", by="ann")
    why = queue.why(job_of(kept, "two"))
    assert (why.resource, why.code) == (f"queue:{other}", "held")
    assert "inspection" in why.reason
    stranger = shared.play(["give", 1], model=model)
    shared.waits([stranger])
    assert queue.get_execution(kept.execution_id).status == "PROCESSING"
    queue.cancel_execution(kept.execution_id)
    assert shared.get(stranger) == 1
    limited = queue.execute_workflow(define(shared, *steps, hold_timeout=0.5))
    shared.becomes(job_of(limited, "two"), "waiting")
    assert shared.get(shared.play(["give", 2], model=model)) == 2
    eventually(lambda: queue.get_audit(event="disowned", job_id=job_of(limited, "two")), PATIENCE)
    assert shared.state(job_of(limited, "two")) == "waiting"
    queue.cancel_execution(limited.execution_id)
    queue.resume(other, by="ann")


def test_a_step_that_replaces_itself_is_still_the_step(shared: Installation) -> None:
    model = shared.model()
    inner = shared.s(["give", 3]) | shared.task("add").s(4)
    name = define(
        shared,
        play("one", ["replace", loads(dumps(inner))], models=model),
        play("two", ["give", "{one}"], models=model),
    )
    begun = shared.work_queue.execute_workflow(name)
    done = ends(shared, begun, "COMPLETED")
    assert done.details[1].result == "7"
    assert free(shared, model)


def test_what_cannot_run_is_refused_before_the_first_step(shared: Installation) -> None:
    queue = shared.work_queue
    good = play("good", models="m")

    def refused(*steps: Step, inputs: dict[str, Any] | None = None, **more: Any) -> str:
        with pytest.raises(InvalidValue) as caught:
            queue.execute_workflow(define(shared, *steps, **more), inputs)
        return str(caught.value)

    assert "steps[1] (bad).task: 'tmplate' is not allowed" in refused(good, Step("bad", "tmplate"))
    assert "did you mean 'template'?" in refused(good, Step("bad", "tmplate"))
    assert "a coordinated task" in refused(Step("bad", "plain"))
    assert "what the task takes" in refused(good, Step("bad", "add", args=[1]))
    unknown = refused(Step("one", "add", args=[1, 2]), Step("bad", "template", args=["{one}"]))
    assert "(bad).models: '{model}' is not allowed" in unknown
    assert "inputs: 'modle' is not allowed" in refused(
        good, inputs={"modle": 1}, required=["model"]
    )
    assert "inputs.model: None is not allowed: given" in refused(good, required=["model"])
    with pytest.raises(UnknownWorkflow, match="no workflow 'nope' is defined"):
        queue.execute_workflow("nope")
    with pytest.raises(UnknownExecution):
        queue.get_execution("workflow-nope")


def test_one_id_is_one_execution(shared: Installation) -> None:
    queue, model = shared.work_queue, shared.model()
    name = define(shared, play("one", models=model))
    first = queue.execute_workflow(name, execution_id="workflow-" + model)
    ends(shared, first, "COMPLETED")
    again = queue.execute_workflow(name, execution_id=model)
    assert (again.execution_id, again.status) == (first.execution_id, "COMPLETED")
    assert shared.runs(job_of(first, "one")) == 1
    noted(shared, "executed", first.execution_id)
    assert [one.execution_id for one in queue.get_executions(workflow=name)] == [first.execution_id]
    assert queue.get_executions(workflow=name, status="pending") == []

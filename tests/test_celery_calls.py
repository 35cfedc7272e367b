"""Calls of tasks mean what they mean to Celery, and they wait for what their jobs need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import TaskRevokedError
from kombu.exceptions import EncodeError

from coordinator.errors import InvalidValue
from tests import celery_app
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


def test_a_call_runs_once_and_its_result_comes_back(shared: Installation) -> None:
    result = shared.play(["give", 7], model=(model := shared.model()))
    assert shared.get(result) == 7
    assert result.state == "SUCCESS"
    (start,) = shared.trace(result, "start")
    assert start["models"] == [model]
    assert start["token"] > 0
    shared.becomes(result, "completed")


def test_jobs_of_one_model_run_one_after_the_other_in_their_order(shared: Installation) -> None:
    model = shared.model()
    with shared.held(model):
        results = [shared.play(["give", n], model=model) for n in range(8)]
    assert [shared.get(result) for result in results] == list(range(8))
    spans = [[line["at"] for line in shared.trace(result)] for result in results]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_priority_orders_what_waits(shared: Installation) -> None:
    model = shared.model()
    task = shared.task("play")
    with shared.held(model):
        calls = {
            priority: task.apply_async((["priority"],), {"model": model}, priority=priority)
            for priority in (9, 3, None, 0, 7)
        }
        shared.waits(calls.values())
    # None given is 5; and what Kombu writes for it (0) is not taken for the highest.
    assert {key: shared.get(result) for key, result in calls.items()} == {key: key for key in calls}
    order = sorted(calls, key=lambda key: shared.trace(calls[key])[0]["at"])
    assert order == [0, 3, None, 7, 9]


def test_countdown_and_eta_delay_a_job_without_a_worker_keeping_it(shared: Installation) -> None:
    task = shared.task("play")
    soon = task.apply_async((["give", 1],), countdown=0.2)
    moment = task.apply_async((["give", 2],), eta=datetime.now(UTC) + timedelta(seconds=0.2))
    later = task.apply_async((["give", 3],), countdown=600)
    assert shared.state(later) == "delayed"
    assert [shared.get(soon), shared.get(moment)] == [1, 2]
    assert list(shared.app.control.inspect(timeout=10, limit=1).scheduled().values()) == [[]]
    later.revoke()
    shared.ends(later, "REVOKED")
    assert shared.runs(later) == 0


@pytest.mark.parametrize("when", ["waiting", "delayed"])
def test_expires_cancels_what_has_not_begun(shared: Installation, when: str) -> None:
    model = shared.model()
    options = {"countdown": 600} if when == "delayed" else {}
    with shared.held(model):
        result = shared.task("play").apply_async((), {"model": model}, expires=0.3, **options)
        assert shared.state(result) == when
        shared.ends(result, "REVOKED")
    shared.becomes(result, "canceled")
    with pytest.raises(TaskRevokedError):
        shared.get(result)
    assert shared.runs(result) == 0


def test_a_job_that_expires_behind_another_leaves_the_model_to_the_next(
    shared: Installation,
) -> None:
    model, gate = shared.model(), shared.gate()
    first = shared.play(["block", gate], model=model)
    shared.starts(first)
    expiring = shared.task("play").apply_async((), {"model": model}, expires=0.2)
    last = shared.play(["give", "last"], model=model)
    shared.ends(expiring, "REVOKED")
    assert shared.state(last) == "waiting"
    shared.open(gate)
    assert shared.get(last) == "last"
    assert shared.runs(expiring) == 0


def test_a_name_is_enough_where_the_code_is_not(shared: Installation) -> None:
    model = shared.model()
    by_rule = shared.stranger.send_task("play", (["give", 1],), {"model": model})
    by_call = shared.stranger.send_task("play", (["give", 2],), models=[model, f"{model}-b"])
    no_models = shared.stranger.send_task("told")
    assert [shared.get(by_rule), shared.get(by_call), shared.get(no_models)] == [1, 2, "told"]
    assert shared.trace(by_rule, "start")[0]["models"] == [model]
    assert shared.trace(by_call, "start")[0]["models"] == [model, f"{model}-b"]


def test_a_task_sent_by_name_before_any_was_looked_at_needs_its_models(alone: Installation) -> None:
    app = celery_app.create(alone.broker, alone.folder, code=False)

    @app.task(name="late_bound", models="{model}", shared=False)
    def late_bound(model: str) -> str:
        return model

    assert not app.finalized
    sent = app.send_task("late_bound", kwargs={"model": "m"})
    assert alone.work_queue.get_job(sent.id).models == ("m",)


def test_the_worker_of_a_name_knows_the_limits_of_its_task(shared: Installation) -> None:
    result = shared.stranger.send_task("once", (["fail", "ValueError"],))
    with pytest.raises(ValueError, match="as told"):
        shared.get(result)
    shared.becomes(result, "failed")
    assert shared.runs(result) == 1


def test_rules_by_task_name_hold_for_several_models(shared: Installation) -> None:
    with shared.held("rule-b"):
        result = shared.stranger.send_task("add", (1, 2))
        assert shared.state(result) == "waiting"
        shared.play(["give", 1], model="rule-a").get(timeout=30)
    assert shared.get(result) == 3


@pytest.mark.parametrize(
    ("args", "kwargs", "models"),
    [
        (("m",), {}, ["m", "net-7"]),
        (("m", 3), {}, ["m", "net-3"]),
        ((), {"model": "m", "number": 4}, ["m", "net-4"]),
        (("m",), {"kind": "tree"}, ["m", "tree-7"]),
    ],
)
def test_templates_see_positional_keyword_and_default_arguments(
    shared: Installation, args: tuple[Any, ...], kwargs: dict[str, Any], models: list[str]
) -> None:
    assert shared.get(shared.task("template").apply_async(args, kwargs)) == models


def test_options_come_from_annotations_classes_methods_and_the_call(shared: Installation) -> None:
    model = shared.model()
    annotated = shared.task("annotated").delay()
    written = shared.task("written").delay(model, ["give", 1])
    asking = shared.task("asking").delay(3)
    called = shared.task("written").apply_async((model,), models="of-the-call")
    for result in (annotated, written, asking, called):
        shared.get(result)
    assert shared.trace(annotated, "start")[0]["models"] == ["annotated-model"]
    assert shared.trace(written, "start")[0]["models"] == [model]
    assert shared.trace(asking, "start")[0]["models"] == ["asking-small-3"]
    assert shared.trace(called, "start")[0]["models"] == ["of-the-call"]


def test_shared_and_typed_tasks_are_coordinated(shared: Installation) -> None:
    model = shared.model()
    with shared.held(model):
        result = shared.task("shared").delay(model)
        assert shared.state(result) == "waiting"
    assert shared.get(result) == model
    if find_spec("pydantic"):
        with shared.held(model):
            typed = shared.task("typed").delay({"model": model, "moves": 2})
            assert shared.state(typed) == "waiting"
        assert shared.get(typed) == {"moves": 3}


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([""], "1 to 200 characters"),
        (["m" * 10_000], "characters"),
        (["two words"], "white space"),
        (["tab\tbed"], "white space"),
        ([f"m{n}" for n in range(100)], "at most 64"),
        ([7], "models"),
        (7, "a name or a list of names"),
        ("{nothing}", "a template over the arguments"),
        (["m", 3.5], "models"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_written(
    shared: Installation, models: Any, words: str
) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        shared.task("play").apply_async((["give", 1],), models=models, task_id="refused")
    assert len(str(caught.value)) < 400
    _nothing_written(shared, "refused")


@pytest.mark.parametrize(
    "options",
    [
        {"org": "no good"},
        {"integration": ""},
        {"timeout": 0},
        {"timeout": "soon"},
        {"timeout": float("nan")},
        {"heartbeat_timeout": -1},
        {"max_retries": -2},
        {"max_retries": True},
        {"retry_delays": "123"},
        {"retry_delays": [-1]},
        {"queue": "a/b"},
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    shared: Installation, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        shared.task("play").apply_async((), task_id="refused", **options)
    _nothing_written(shared, "refused")


def test_arguments_that_are_no_json_are_refused_before_anything_is_written(
    shared: Installation,
) -> None:
    with pytest.raises(EncodeError):
        shared.task("play").apply_async((object(),), task_id="refused")
    _nothing_written(shared, "refused")


def _nothing_written(own: Installation, job_id: str) -> None:
    assert own.work_queue.store.job(job_id) is None
    assert own.redis.exists(f"coordinator:job:{job_id}", f"coordinator:message:{job_id}") == 0


def test_eager_calls_run_here_and_leave_no_job(shared: Installation) -> None:
    task = shared.task("play")
    result = task.apply((["give", 5],), {"model": shared.model()})
    assert (result.get(), shared.state(result)) == (5, "unknown")
    retried = task.apply((["retry"], ["give", 6]))
    assert (retried.get(), shared.runs(retried)) == (6, 2)
    failed = task.apply((["fail", "ValueError"],))
    assert (failed.state, shared.runs(failed)) == ("FAILURE", 1)
    replaced = task.apply((["replace", shared.s(["give", 8])],))
    assert replaced.get() == 8


def test_always_eager_needs_no_redis(shared: Installation) -> None:
    app = celery_app.create(
        "redis://127.0.0.1:1/0", shared.folder, task_always_eager=True, task_eager_propagates=True
    )
    assert app.tasks["play"].delay(["give", 5], model="m").get() == 5
    assert app.tasks["hooked"].delay(["give", 5], model="m").get() == 5
    with pytest.raises(ValueError, match="as told"):
        app.tasks["play"].apply_async((["fail", "ValueError"],), models=["m"])


def test_a_task_called_as_a_function_is_a_function(shared: Installation) -> None:
    assert shared.task("add")(1, 2) == 3
    assert shared.task("play")(["give", 1]) == 1
    with pytest.raises(ValueError, match="as told"):
        shared.task("play")(["fail", "ValueError"])


def test_started_is_tracked_and_results_may_be_ignored(shared: Installation) -> None:
    gate = shared.gate()
    result = shared.play(["block", gate])
    ignored = shared.task("silent").delay(["give", 1])
    shared.starts(result)
    shared.ends(result, "STARTED" if shared.app.conf.task_track_started else "PENDING")
    shared.open(gate)
    shared.get(result)
    shared.becomes(ignored, "completed")
    assert ignored.state == "PENDING"
    per_call = shared.task("play").apply_async((["give", 1],), ignore_result=True)
    shared.becomes(per_call, "completed")
    assert per_call.result is None


@pytest.mark.parametrize("name", ["hooked", "written"])
def test_hooks_and_a_call_of_its_own_run_inside_the_job(shared: Installation, name: str) -> None:
    model = shared.model()
    task = shared.task(name)
    args, kwargs = ((), {"model": model}) if name == "hooked" else ((model,), {})
    result = task.apply_async((*args, ["fail", "ValueError", "as told", 1], ["give", 1]), kwargs)
    assert shared.get(result) == 1
    shared.becomes(result, "completed")
    events = [(line["event"], line["retries"]) for line in shared.trace(result)]
    first = [(event, 0) for event in ("before_start", "call", "start", "end", "on_retry")]
    second = [
        (event, 1)
        for event in ("before_start", "call", "start", "end", "on_success", "after_return")
    ]
    assert events == first + second
    assert all(line["models"] == [model] for line in shared.trace(result))


def test_a_task_class_of_the_app_keeps_its_own_call(alone: Installation) -> None:
    alone.conf["task_cls"] = "tests.celery_app:AppTask"
    with alone.worker(concurrency=1):
        result = alone.play(["fail", "ValueError", "as told", 1], ["give", 1], model="m")
        assert alone.get(result) == 1
    assert [line["event"] for line in alone.trace(result)] == ["app", "start", "end"] * 2


def test_revoke_reaches_a_job_wherever_it_is(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    running = shared.play(["block", gate], model=model)
    shared.starts(running)
    waiting = shared.play(model=model)
    others = [shared.play(model=model) for _ in range(2)]
    delayed = shared.task("play").apply_async(countdown=600)
    shared.waits([waiting, *others])
    waiting.revoke()
    delayed.revoke()
    shared.app.control.revoke([result.id for result in others])
    for result in (waiting, delayed, *others):
        shared.ends(result, "REVOKED")
        shared.becomes(result, "canceled")
    after = shared.play(["give", "after"], model=model)
    running.revoke(terminate=True)
    assert shared.get(after) == "after"
    shared.ends(running, "REVOKED")
    shared.becomes(running, "canceled")
    assert [shared.runs(result) for result in (waiting, delayed, *others)] == [0, 0, 0, 0]
    (end,) = shared.trace(after, "start")
    assert shared.trace(running)[0]["at"] < end["at"]


def test_revoke_leaves_a_running_job_and_drops_its_retry(shared: Installation) -> None:
    gate = shared.gate()
    result = shared.play(["block", gate], ["retry"])
    shared.starts(result)
    shared.app.control.revoke(result.id, reply=True, limit=1, timeout=10)
    assert shared.state(result) == "running"
    shared.open(gate)
    shared.ends(result, "REVOKED")
    shared.becomes(result, "canceled")
    assert shared.runs(result) == 1


def test_a_running_job_that_is_canceled_stops_and_its_caller_learns_it(
    shared: Installation,
) -> None:
    model, gate = shared.model(), shared.gate()
    result = shared.play(["wait", gate], model=model)
    shared.starts(result)
    assert shared.work_queue.cancel_job(result.id, "not needed", "test") == "stopping"
    with pytest.raises(TaskRevokedError, match="not needed"):
        shared.get(result)
    shared.becomes(result, "canceled")
    assert shared.get(shared.play(["give", 1], model=model)) == 1


def test_a_job_released_at_a_checkpoint_runs_again(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    result = shared.play(["wait", gate], ["give", 1], model=model)
    shared.starts(result)
    shared.work_queue.release_job(result.id, "a test", "test")
    shared.starts(result, 2)
    shared.open(gate)
    assert shared.get(result) == 1


def test_the_story_of_a_call_is_in_the_store(shared: Installation) -> None:
    result = shared.task("play").apply_async((["give", 1],), {"model": "m"}, org="acme")
    shared.get(result)

    def recorded() -> dict[str, Any]:
        row = shared.work_queue.store.job(result.id)
        assert row is not None
        assert row["state"] == "completed"
        return row

    row = eventually(recorded, 30)
    assert (row["task"], row["queue"], row["org"]) == ("play", "work", "acme")
    assert row["required_models"] == ["m"]

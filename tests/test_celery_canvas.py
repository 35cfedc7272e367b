"""Canvas, retries and replacements: what one task makes of others, under the locks of all of them."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError, WorkerLostError
from celery.exceptions import TimeoutError as CeleryTimeout

from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


def overlap(own: Installation, results: list[Any]) -> bool:
    """Whether two of the jobs ran at the same time, by their own traces."""
    spans = sorted((own.trace(result)[0]["at"], own.trace(result)[-1]["at"]) for result in results)
    return any(after[0] < before[1] for before, after in pairwise(spans))


def add(own: Installation, *args: Any) -> Any:
    return own.task("add").s(*args)


# -- canvas ------------------------------------------------------------------------------------------


def test_a_chain_passes_results_on_also_with_one_model(shared: Installation) -> None:
    model = shared.model()
    steps = [add(shared, 1, 2).set(models=model)] + [
        add(shared, n).set(models=model) for n in (3, 4)
    ]
    result = chain(*steps).apply_async()
    assert shared.get(result) == 10
    assert result.parent.parent.get() == 3
    assert [child.id for child in result.parent.children] == [result.id]


def test_a_group_runs_its_members_and_one_model_serializes_them(shared: Installation) -> None:
    model = shared.model()
    result = group(shared.s(["spin", 0.01], ["give", n], model=model) for n in range(5)).delay()
    assert shared.get(result) == [0, 1, 2, 3, 4]
    assert not overlap(shared, list(result.results))


def test_chords_on_one_model_also_hold_it_for_the_body(shared: Installation) -> None:
    model = shared.model()
    members = [shared.s(["give", n], model=model) for n in range(4)]
    body = shared.task("total").s().set(models=model)
    assert shared.get(chord(members)(body)) == 6


def test_nested_canvas(shared: Installation) -> None:
    inner = chord([add(shared, 1, 1), add(shared, 2, 2)], shared.task("total").s())
    tree = chain(
        group(add(shared, 1, 2), chain(add(shared, 3, 4), add(shared, 5)), inner),
        shared.task("total").s(),
        group(add(shared, 1), add(shared, 2)),
    )
    assert shared.get(tree.delay()) == [22, 23]


def test_chunks_map_and_starmap(shared: Installation) -> None:
    task = shared.task("add")
    assert shared.get(task.chunks([(1, 1), (2, 2), (3, 3)], 2).group().delay()) == [[2, 4], [6]]
    assert shared.get(task.starmap([(1, 2), (3, 4)]).delay()) == [3, 7]


def test_a_failing_member_fails_the_body(shared: Installation) -> None:
    members = [shared.task("once").s(["fail", "ValueError"]), add(shared, 1, 2)]
    result = chord(members)(shared.task("total").s())
    shared.ends(result, "FAILURE")
    assert isinstance(result.result, ChordError)
    assert "as told" in str(result.result)


@pytest.mark.parametrize("where", ["alone", "in a chain"])
def test_a_member_canceled_while_it_waits_fails_the_body(shared: Installation, where: str) -> None:
    model = shared.model()
    with shared.held(model):
        member = shared.s(["give", 1], model=model)
        other = chain(member, add(shared, 5)) if where == "in a chain" else member
        result = chord([add(shared, 1, 2), other])(shared.task("total").s())
        blocked = result.parent.results[1]
        blocked = blocked.parent or blocked
        shared.becomes(blocked, "waiting")
        blocked.revoke()
        shared.ends(result, "FAILURE")
    assert isinstance(result.result, ChordError)
    shared.ends(blocked, "REVOKED")
    with pytest.raises(TaskRevokedError):
        shared.get(result.parent.results[1])


def test_links_follow_success_and_error_links_follow_failure(shared: Installation) -> None:
    told = shared.task("told")
    good, bad = told.s("good"), told.si("bad")
    good.freeze(), bad.freeze()
    first = shared.task("play").apply_async((["give", 7],), link=good, link_error=told.si("never"))
    assert shared.get(first) == 7
    shared.starts(good.id)
    assert shared.trace(good.id, "start")[0]["about"] == ["7", "good"]
    assert [child.id for child in first.children] == [good.id]
    failing = shared.task("once").apply_async((["fail", "ValueError"],), link_error=bad)
    with pytest.raises(ValueError, match="as told"):
        shared.get(failing)
    shared.starts(bad.id)


def test_a_canvas_inside_a_job_waits_for_the_models_of_the_job(shared: Installation) -> None:
    model = shared.model()
    call = ["call", "play", [["give", 1]], {"kwargs": {"model": model}}]
    result = shared.play(call, ["spin", 0.05], ["call", "told"], model=model)
    shared.get(result)
    told = {child: shared.get(child) for child in result.children}
    (child,) = [child for child, value in told.items() if value == 1]
    assert not overlap(shared, [result, child])
    assert shared.trace(child, "start")[0]["models"] == [model]
    assert shared.work_queue.store.job(child.id) is not None


# -- retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"countdown": 0.05}, {"eta": 0.05}, {}, {"throw": False}])
def test_retry_runs_the_task_again_with_its_models(
    shared: Installation, how: dict[str, Any]
) -> None:
    model = shared.model()
    result = shared.play(["retry", 2, how], ["give", 5], model=model)
    shared.starts(result, 3)
    shared.becomes(result, "completed")
    assert result.result == 5
    assert [line["retries"] for line in shared.trace(result, "start")] == [0, 1, 2]
    assert all(line["models"] == [model] for line in shared.trace(result))
    tokens = [line["token"] for line in shared.trace(result, "start")]
    assert tokens == sorted(set(tokens))


def test_a_retry_waits_its_turn_and_keeps_what_the_call_said(shared: Installation) -> None:
    models, gate = [shared.model(), shared.model()], shared.gate()
    result = shared.task("play").apply_async(
        (["retry"], ["block", gate], ["priority"]), models=models, priority=2
    )
    shared.starts(result, 2)
    job = shared.work_queue.ledger.job(result.id)
    assert job is not None
    assert job["retries"] == "1"
    shared.open(gate)
    assert shared.get(result) == 2
    assert [line["models"] for line in shared.trace(result, "start")] == [sorted(models)] * 2


def test_a_retry_with_other_arguments_takes_their_models(shared: Installation) -> None:
    first, second = shared.model(), shared.model()
    changed = {"args": [["give", 9]], "kwargs": {"model": second}}
    result = shared.play(["retry", 1, changed], model=first)
    assert shared.get(result) == 9
    assert [line["models"] for line in shared.trace(result, "start")] == [[first], [second]]


def test_a_retry_may_say_what_it_needs(shared: Installation) -> None:
    model = shared.model()
    result = shared.play(["retry", 1, {"models": [model], "priority": 1}], ["priority"])
    assert shared.get(result) == 1
    assert [line["models"] for line in shared.trace(result, "start")] == [[], [model]]


def test_max_retries_of_a_retry_end_it(shared: Installation) -> None:
    result = shared.play(["retry", 9, {"max_retries": 1, "exc": "KeyError"}])
    with pytest.raises(KeyError, match="as told"):
        shared.get(result)
    shared.becomes(result, "unprocessable")
    assert shared.runs(result) == 2


def test_an_error_is_retried_and_then_given_up(shared: Installation) -> None:
    result = shared.play(["fail", "ValueError"])
    with pytest.raises(ValueError, match="as told"):
        shared.get(result)
    shared.becomes(result, "unprocessable")
    assert shared.runs(result) == 4


@pytest.mark.parametrize(
    ("name", "options", "runs", "state"),
    [
        ("once", {}, 1, "failed"),
        ("play", {"max_retries": 1}, 2, "unprocessable"),
        ("play", {"max_retries": 0}, 1, "failed"),
        ("once", {"max_retries": 2, "retry_delays": [0, 0.01]}, 3, "unprocessable"),
    ],
)
def test_max_retries_of_task_and_call(
    shared: Installation, name: str, options: dict[str, Any], runs: int, state: str
) -> None:
    result = shared.task(name).apply_async((["fail", "ValueError"],), **options)
    with pytest.raises(ValueError, match="as told"):
        shared.get(result)
    shared.becomes(result, state)
    assert shared.runs(result) == runs


def test_no_limit_of_retries(shared: Installation) -> None:
    result = shared.task("forever").delay(["fail", "ValueError", "as told", 6], ["give", 1])
    assert shared.get(result) == 1
    per_call = shared.task("play").apply_async(
        (["fail", "ValueError", "as told", 6], ["give", 1]), max_retries=-1
    )
    assert shared.get(per_call) == 1
    assert [shared.runs(result), shared.runs(per_call)] == [7, 7]


def test_an_error_that_is_not_retryable_fails_at_once(shared: Installation) -> None:
    result = shared.play(["fail", "NotRetryable"])
    with pytest.raises(Exception, match="as told"):
        shared.get(result)
    shared.becomes(result, "failed")
    assert shared.runs(result) == 1


def test_autoretry_is_as_the_task_says_it(shared: Installation) -> None:
    task = shared.task("backing")
    began = time.monotonic()
    listed = task.delay(["fail", "ValueError", "as told", 1], ["give", 1])
    excluded, other = task.delay(["fail", "KeyError"]), task.delay(["fail", "NotRetryable"])
    for result in (excluded, other):
        with pytest.raises(Exception, match="as told"):
            shared.get(result)
        shared.becomes(result, "failed")
    assert shared.get(listed) == 1
    assert time.monotonic() - began >= 1
    assert [shared.runs(result) for result in (listed, excluded, other)] == [2, 1, 1]


def test_autoretry_gives_up_after_its_own_limit(shared: Installation) -> None:
    result = shared.task("backing").delay(["fail", "ValueError"])
    with pytest.raises(ValueError, match="as told"):
        shared.get(result)
    shared.becomes(result, "unprocessable")
    assert shared.runs(result) == 3


# -- endings -----------------------------------------------------------------------------------------


def test_ignore_leaves_no_result(shared: Installation) -> None:
    result = shared.play(["ignore"])
    shared.becomes(result, "completed")
    assert result.state == "PENDING"


def test_reject_ends_a_job_or_puts_it_back(shared: Installation) -> None:
    again = shared.play(["reject", True], ["give", 1], model=(model := shared.model()))
    assert shared.get(again) == 1
    assert shared.runs(again) == 2
    for name in ("play", "late"):
        ended = shared.task(name).delay(["reject", False], model=model)
        shared.ends(ended, "FAILURE")
        shared.becomes(ended, "failed")
        assert shared.runs(ended) == 1


def test_acknowledging_late_changes_nothing_for_a_job(shared: Installation) -> None:
    model = shared.model()
    task = shared.task("late")
    results = [task.delay(["retry"], ["give", n], model=model) for n in range(3)]
    again = task.delay(["reject", True], ["give", 3], model=model)
    assert [shared.get(result) for result in (*results, again)] == [0, 1, 2, 3]
    assert [shared.runs(result) for result in (*results, again)] == [2, 2, 2, 2]
    assert shared.redis.exists("unacked") == 0


def test_a_job_that_kills_its_process_is_given_up_and_its_caller_learns_it(
    shared: Installation,
) -> None:
    model = shared.model()
    result = chain(
        shared.task("play").s(["die"], model=model).set(max_retries=1), add(shared, 1)
    ).delay()
    with pytest.raises(WorkerLostError, match="lost its worker 2 times"):
        shared.get(result.parent)
    assert shared.runs(result.parent) == 2
    shared.becomes(result.parent, "unprocessable")
    shared.ends(result, "FAILURE")
    once = shared.play(["die", 1], ["give", 1], model=model)
    assert shared.get(once) == 1


def test_no_retries_after_failures_and_a_second_chance_after_a_crash(shared: Installation) -> None:
    task = shared.task("unretried")
    failing, dying = task.delay(["fail", "ValueError"]), task.delay(["die", 1], ["give", 1])
    with pytest.raises(ValueError, match="as told"):
        shared.get(failing)
    shared.becomes(failing, "failed")
    assert shared.get(dying) == 1
    assert [shared.runs(result) for result in (failing, dying)] == [1, 2]
    without = shared.task("once").delay(["die", 1], ["give", 1])
    with pytest.raises(WorkerLostError, match="lost its worker 1 times"):
        shared.get(without)
    shared.becomes(without, "unprocessable")
    assert shared.runs(without) == 1


def test_a_task_that_exits_its_process_comes_back(shared: Installation) -> None:
    result = shared.task("play").apply_async((["leave"],), max_retries=0)
    with pytest.raises(WorkerLostError):
        shared.get(result)
    shared.becomes(result, "unprocessable")
    assert shared.runs(result) == 1


# -- replacements ------------------------------------------------------------------------------------


def canvases(own: Installation, model: str) -> dict[str, tuple[Any, Any]]:
    s = own.s
    return {
        "task": (s(["give", 7], model=model), 7),
        "chain": (chain(s(["give", 3], model=model), add(own, 4)), 7),
        "group": (group(s(["give", n], model=model) for n in (3, 4)), [3, 4]),
        "chord": (
            chord([s(["give", n], model=model) for n in (3, 4)], own.task("total").s()),
            7,
        ),
        "nested": (s(["replace", s(["replace", s(["give", 7], model=model)], model=model)]), 7),
        "retrying": (s(["retry", 2], ["give", 7], model=model), 7),
    }


@pytest.mark.parametrize("kind", ["task", "chain", "group", "chord", "nested", "retrying"])
def test_a_job_replaced_by_a_canvas_has_its_result(shared: Installation, kind: str) -> None:
    model = shared.model()
    canvas, expected = canvases(shared, model)[kind]
    result = shared.play(["replace", canvas], model=model)
    after = add(shared, 0)
    assert shared.get(result) == expected
    shared.becomes(result, "completed")
    followed = chain(shared.s(["replace", canvases(shared, model)["chain"][0]]), after).delay()
    assert shared.get(followed) == 7


def test_a_replaced_chord_member_returns_its_part(shared: Installation) -> None:
    model = shared.model()
    inner = chain(shared.s(["give", 3], model=model), add(shared, 4))
    members = [shared.s(["replace", inner], model=model), add(shared, 1, 2)]
    assert shared.get(chord(members)(shared.task("total").s())) == 10


def test_a_replacement_that_is_quicker_than_the_end_of_what_it_replaces(
    shared: Installation,
) -> None:
    # The last step of the chain has the id of the job that is still running when it is published.
    steps = chain(shared.s(["give", 3]), shared.s(["give", 7]))
    result = shared.task("replacing").delay(["replace", steps])
    shared.starts(result)
    (first,) = eventually(lambda: [child for child in _children(shared, result) if child], 30)
    shared.becomes(first, "completed")
    shared.open(f"replaced-{result.id}")
    assert shared.get(result) == 7
    assert shared.runs(result) == 2
    shared.becomes(result, "completed")


def _children(own: Installation, result: Any) -> list[str]:
    ids = [path.name for path in (own.folder / "trace").iterdir()]
    rows = [own.work_queue.store.job(job_id) for job_id in ids]
    return [row["job_id"] for row in rows if row and row["parent_id"] == result.id]


def test_waiting_for_a_result_inside_a_task_is_refused_as_ever(shared: Installation) -> None:
    with pytest.raises(CeleryTimeout):
        add(shared, 1, 2).apply_async(countdown=600).get(timeout=0.1)

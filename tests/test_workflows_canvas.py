"""Chains, groups and chords under one lock: held from the first task to the last, and never longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from coordinator import InvalidValue, locked
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

PATIENCE = 30


def holder(own: Installation, model: str) -> str:
    """Return who holds a model now: one owner."""
    (owner,) = own.work_queue.ledger.holders(f"model:{model}")
    return owner


def free(own: Installation, *models: str) -> None:
    """Wait until the models are free."""
    ledger = own.work_queue.ledger
    eventually(lambda: not any(ledger.holders(f"model:{model}") for model in models), PATIENCE)


def bare(own: Installation, *acts: Any) -> Any:
    """Return a call of ``play`` that declares no models itself."""
    return own.s(*acts)


def test_a_chain_holds_its_models_from_the_first_task_to_the_last(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    one, two = bare(shared, ["wait", gate], ["give", 1]), bare(shared, ["give", 2])
    result = locked(chain(one, two, shared.task("add").s(5)), [model]).delay()
    first = result.parent.parent
    shared.starts(first)
    owner = holder(shared, model)
    assert owner.startswith("workflow-")
    stranger = shared.play(["give", 9], model=model)
    why = shared.work_queue.why(stranger.id)
    assert why.reason == f"Model conflict: {model} in use by workflow job {owner}"
    shared.open(gate)
    assert shared.get(result) == 7
    assert shared.get(stranger) == 9
    assert shared.trace(result.parent)[0]["models"] == [model]
    assert shared.trace(stranger)[0]["at"] >= shared.trace(result.parent)[-1]["at"]
    free(shared, model)


def test_members_of_a_group_run_side_by_side_under_one_lock(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    members = group(bare(shared, ["wait", gate], ["give", number]) for number in range(3))
    result = locked(members, model).apply_async()
    for one in result.results:
        shared.starts(one)
    stranger = shared.play(["give", 9], model=model)
    shared.waits([stranger])
    shared.open(gate)
    assert shared.get(result) == [0, 1, 2]
    assert shared.get(stranger) == 9


def test_a_chord_holds_them_for_its_body_too(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    members = [bare(shared, ["wait", gate], ["give", number]) for number in range(3)]
    result = locked(chord(members, shared.task("total").s()), [model]).delay()
    shared.starts(result.parent.results[0])
    stranger = shared.play(["give", 9], model=model)
    shared.waits([stranger])
    shared.open(gate)
    assert shared.get(result) == 3
    assert shared.get(stranger) == 9
    free(shared, model)


def test_what_its_tasks_declare_is_held_as_well(shared: Installation) -> None:
    """By their options, and by templates over arguments that are known."""
    names = sorted(shared.model() for _ in range(3))
    template = shared.task("template")
    tree = chain(
        group(template.si(names[0]), bare(shared, ["give", 1]).set(models=names[1])),
        shared.task("total").si([1, 2]),
    )
    result = locked(tree, names[2]).delay()
    assert shared.get(result) == 3
    held = shared.get(result.parent.results[0])
    assert sorted(held) == sorted([*names, "net-7"])


@pytest.mark.parametrize("kind", ["chain", "group", "chord"])
def test_a_failure_gives_them_back(shared: Installation, kind: str) -> None:
    model = shared.model()
    broken, good = shared.task("once").s(["fail", "ValueError"]), bare(shared, ["give", 1])
    canvas: Any = {
        "chain": chain(good, broken, shared.task("total").s()),
        "group": group(good, broken),
        "chord": chord([good, broken], shared.task("total").s()),
    }[kind]
    result = locked(canvas, model).delay()
    with pytest.raises((ValueError, ChordError), match="as told"):
        shared.get(result.parent if kind == "chain" else result)
    free(shared, model)
    assert shared.get(shared.play(["give", 2], model=model)) == 2


def test_a_canceled_link_gives_them_back(shared: Installation) -> None:
    model = shared.model()
    links = chain(bare(shared, ["give", 1]), bare(shared, ["give", 2]).set(queue="selfplay"))
    result = locked(links, model).delay()
    shared.becomes(result, "waiting")
    assert holder(shared, model).startswith("workflow-")
    shared.work_queue.cancel_job(result.id)
    free(shared, model)


def test_a_task_of_it_that_replaces_itself_keeps_them(shared: Installation) -> None:
    model, gate = shared.model(), shared.gate()
    inner = bare(shared, ["wait", gate], ["give", 3])
    first = bare(shared, ["replace", dict(inner)])
    result = locked(chain(first, shared.task("add").s(4)), model).delay()
    eventually(lambda: shared.runs(result.parent) == 2, PATIENCE)
    holder(shared, model)
    shared.open(gate)
    assert shared.get(result) == 7
    free(shared, model)


def test_what_replaces_a_task_waits_for_its_own_models_too(shared: Installation) -> None:
    model, other = shared.model(), shared.model()
    inner = bare(shared, ["give", 3]).set(models=other)
    first = bare(shared, ["replace", dict(inner)])
    with shared.held(other):
        result = locked(chain(first, shared.task("add").s(4)), model).delay()
        shared.becomes(result.parent, "waiting")
        assert shared.work_queue.why(result.parent.id).resource == f"model:{other}"
        holder(shared, model)
    assert shared.get(result) == 7
    assert shared.trace(result.parent)[-1]["models"] == sorted([model, other])
    free(shared, model, other)


def test_the_same_canvas_sent_twice_is_two_locks(shared: Installation) -> None:
    model = shared.model()
    canvas = chain(bare(shared, ["spin", 0.05]), bare(shared, ["spin", 0.05]))
    twice = locked(canvas, model)
    results = [twice.delay() for _ in range(2)]
    for result in results:
        shared.get(result)
    spans = sorted(
        (shared.trace(result.parent)[0]["at"], shared.trace(result)[-1]["at"]) for result in results
    )
    assert spans[0][1] <= spans[1][0]
    assert "owner" not in canvas.tasks[0].options
    free(shared, model)


def test_models_that_are_not_known_yet_are_refused(shared: Installation) -> None:
    """Else a task would wait for a model while it holds others, perhaps for each other for ever."""
    later = chain(bare(shared, ["give", "m"]), shared.task("template").s())
    with pytest.raises(InvalidValue, match=r"template\.s\(\.\.\.\)\.set\(models=\[\.\.\.\]\)"):
        locked(later, "m").delay()
    with pytest.raises(InvalidValue, match="models"):
        locked(later, ["a b"])
    given = chain(bare(shared, ["give", "m"]), shared.task("template").s().set(models=["x"]))
    assert shared.get(locked(given, "m").delay()) == ["m", "x"]


def test_single_tasks_and_canvas_in_canvas(shared: Installation) -> None:
    model = shared.model()
    assert shared.get(locked(bare(shared, ["give", 1]), model).delay()) == 1
    inner = chord(
        [shared.task("add").s(1, 1), shared.task("add").s(2, 2)], shared.task("total").s()
    )
    tree = chain(group(shared.task("add").s(1, 2), inner), shared.task("total").s())
    assert shared.get(locked(tree, model).delay()) == 9
    many = group(shared.task("add").s(number, 1) for number in range(25))
    assert shared.get(locked(many, model).delay()) == list(range(1, 26))
    free(shared, model)

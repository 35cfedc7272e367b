"""Resources: names that can be names, needs in the order they are tried, classes that do not mix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import InvalidValue
from coordinator.resources import (
    KINDS,
    MAX_MODELS,
    MAX_NAME,
    SERIAL_RESOURCE,
    check_name,
    class_of,
    kind_of,
    model_resource,
    models_of,
    needs_of,
    org_resource,
)

names = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=12)
good_names = names.filter(lambda name: "|" not in name)
good_queues = good_names.filter(lambda name: "/" not in name)


@pytest.mark.parametrize("name", ["a", "resnet-50", "s3://bucket/m:1", "größe", "m" * MAX_NAME])
def test_names(name: str) -> None:
    assert check_name("models", name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a|b", "a\n", "a\x00", "\x7f", "a\u00a0b", "m" * (MAX_NAME + 1), None, 5],
)
def test_what_cannot_be_a_name_is_named_with_its_field(name: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_name("models", name)
    assert caught.value.field == "models"
    assert caught.value.value == name
    assert str(caught.value).startswith("models: ")
    assert f"1 to {MAX_NAME} characters" in str(caught.value)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidValue, match=r"\.\.\. \(5002 characters\)") as caught:
        check_name("org", "x" * 5000)
    assert len(str(caught.value)) < 250


def test_needs_in_the_order_in_which_they_are_tried() -> None:
    assert needs_of("training", ["b", "a", "b"], org="acme", integration="s3") == (
        "model:a",
        "model:b",
        SERIAL_RESOURCE,
        "integration:s3",
        "org:training/acme",
        "queue:training",
    )
    assert needs_of("training") == (SERIAL_RESOURCE, "queue:training")


@given(
    queue=good_queues,
    models=st.lists(good_names, max_size=5),
    org=st.none() | good_names,
    integration=st.none() | good_names,
)
def test_needs_come_by_kind_and_each_once(
    queue: str, models: list[str], org: str | None, integration: str | None
) -> None:
    needs = needs_of(queue, models, org, integration)
    kinds = [KINDS.index(kind_of(need)) for need in needs]
    assert kinds == sorted(kinds)
    assert len(set(needs)) == len(needs)
    assert models_of(needs) == tuple(sorted(set(models)))
    assert needs == needs_of(queue, reversed(models), org, integration)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": "q", "models": ["a b"]}, "models"),
        ({"queue": "q", "org": ""}, "org"),
        ({"queue": "q", "integration": "a|b"}, "integration"),
        ({"queue": "q", "models": [str(n) for n in range(MAX_MODELS + 1)]}, "models"),
    ],
)
def test_bad_needs_name_their_field(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        needs_of(**arguments)  # type: ignore[arg-type]  # wrong types are the point
    assert caught.value.field == field


@given(
    st.tuples(st.lists(good_names, max_size=3), good_queues, st.integers(0, 9)),
    st.tuples(st.lists(good_names, max_size=3), good_queues, st.integers(0, 9)),
)
def test_jobs_share_a_class_exactly_when_needs_and_priority_are_the_same(
    one: tuple[list[str], str, int], other: tuple[list[str], str, int]
) -> None:
    needs, others = needs_of(one[1], one[0]), needs_of(other[1], other[0])
    same = (needs, one[2]) == (others, other[2])
    assert (class_of(needs, one[2]) == class_of(others, other[2])) is same


def test_a_name_with_colons_stays_whole() -> None:
    assert models_of([model_resource("s3://bucket/m:1")]) == ("s3://bucket/m:1",)
    assert kind_of(org_resource("training", "a:b")) == "org"

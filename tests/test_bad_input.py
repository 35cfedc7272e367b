"""Bad input: a clear error that names field and value, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from kombu.entity import Queue
from kombu.exceptions import EncodeError

from coordinator.errors import InvalidValue

if TYPE_CHECKING:
    from tests.desk import Desk

pytest_plugins = ["tests.workers", "tests.desk"]

Send = Callable[..., Any]


def written(desk: Desk) -> tuple[int, int, int]:
    """Return the jobs in the ledger, the rows in the store and the messages in the broker."""
    redis, prefix = desk.ledger.redis, desk.ledger.prefix
    jobs = sum(1 for _ in redis.scan_iter(f"{prefix}job:*"))
    return jobs, len(desk.queue.store.unfinished()), redis.llen("work") + redis.llen("wrok")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a queue that nobody has": ({"queue": "wrok"}, r"queue: 'wrok'.*did you mean 'work'\?"),
    "a queue with a slash": ({"queue": "work/it"}, "queue: 'work/it' is not allowed"),
    "an empty model": ({"models": [""]}, "models: '' is not allowed: 1 to 200 characters"),
    "a long model": ({"models": ["m" * 10_000]}, r"models: 'mmm.*\.\.\. \(10002 characters\)"),
    "a model with spaces": ({"models": ["a b"]}, "models: 'a b'"),
    "a thousand models": ({"models": [f"m{n}" for n in range(1000)]}, "at most 64"),
    "models that are none": ({"models": 7}, "models: 7 is not allowed: a name or a list"),
    "a template that lacks its argument": ({"models": "{engine}"}, "models: '{engine}'"),
    "an org that is a number": ({"org": 7}, "org: 7 is not allowed"),
    "a negative timeout": ({"timeout": -1}, "timeout: -1 is not allowed: a positive number"),
    "retries below none": ({"max_retries": -2}, "max_retries: -2 is not allowed"),
    "delays that are words": ({"retry_delays": ["soon"]}, "retry_delays"),
}


@pytest.fixture(autouse=True)
def declared(desk: Desk) -> None:
    """The app says which queues it has: others are mistakes, unless a worker consumes them."""
    desk.installation.app.conf.task_queues = [Queue("work"), Queue("training")]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_call_is_refused_before_anything_is_written(desk: Desk, what: str) -> None:
    options, message = BAD[what]
    before = written(desk)
    with pytest.raises(InvalidValue, match=message):
        desk.send("m", **options)
    assert written(desk) == before


def test_arguments_that_are_no_json_are_refused(desk: Desk) -> None:
    before = written(desk)
    with pytest.raises(EncodeError):
        desk.send("m", object())
    assert written(desk) == before


def test_a_queue_is_known_when_a_live_worker_consumes_it(desk: Desk) -> None:
    with pytest.raises(InvalidValue, match="queue: 'gpu'"):
        desk.send("m", queue="gpu")
    desk.ledger.renew("elsewhere/there/2/2", ["gpu"], 1, register=True)
    assert desk.state(desk.send("m", queue="gpu")) == "dispatched"


@pytest.mark.parametrize("value", [-1, 1.5, "many", True])
def test_a_limit_that_is_none_is_refused(desk: Desk, value: Any) -> None:
    with pytest.raises(InvalidValue, match="limit"):
        desk.queue.limit("model:m", value)
    assert desk.ledger.redis.hget(f"{desk.ledger.prefix}limits", "model:m") is None


@pytest.mark.parametrize("resource", ["", "model", "model:", "modle:m", "model:a b", "weight:"])
def test_a_resource_that_is_none_is_refused(desk: Desk, resource: str) -> None:
    with pytest.raises(InvalidValue, match="resource"):
        desk.queue.limit(resource, 1)
    assert desk.ledger.redis.hlen(f"{desk.ledger.prefix}limits") == 0


@pytest.mark.parametrize("weight", [0, -1, 1.5, "much"])
def test_a_weight_that_is_none_is_refused(desk: Desk, weight: Any) -> None:
    with pytest.raises(InvalidValue, match="weight"):
        desk.queue.weigh("acme", weight)


def test_a_limit_for_a_time_leaves_the_one_that_was_set_for_good(desk: Desk) -> None:
    desk.queue.limit("model:m", 3)
    desk.queue.limit("model:m", 0, until_ms=desk.ledger.clock() + 60_000)
    waiting = desk.send("m")
    assert desk.state(waiting) == "waiting"
    desk.ledger.redis.hset(f"{desk.ledger.prefix}meta", "clock_offset", 61_000)
    desk.work()
    desk.ledger.tick()
    assert desk.state(waiting) == "dispatched"
    assert desk.ledger.redis.hgetall(f"{desk.ledger.prefix}limits") == {"model:m": "3"}
    desk.record()
    kept = {(item.kind, item.value) for item in desk.queue.store.settings()}
    assert kept == {("limit", 3)}

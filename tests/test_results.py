"""Results: what a run returns is kept as Celery keeps it, and only by the run that has the job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from celery.backends.redis import RedisBackend

from coordinator.jobs import Result
from coordinator.messages.results import MAX_BYTES, Backend
from tests import celery_app
from tests.helpers import eventually
from tests.ledger_driver import Driver, at

if TYPE_CHECKING:
    from tests.workers import Installation

__all__ = ["at"]

pytest_plugins = ["tests.workers"]


def test_finish_writes_and_publishes_the_result_of_the_run_that_has_the_job(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    with at.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("result-a", "late")
        late = Result("late", 60, "lost")
        assert at.ledger.finish("a", token - 1, "completed", {}, result=late).answer == "stale"
        for answer in ("done", "again"):
            given = Result("result-a", 60, f'"{answer}"')
            assert at.ledger.finish("a", token, "completed", {}, result=given).answer == answer
        at.redis.publish("late", "the last")
        told: list[str] = []

        def heard() -> bool:
            message = listener.get_message()
            if message:
                told.append(message["data"])
            return told[-1:] == ["the last"]

        eventually(heard, 5)
    assert told == ['"done"', "the last"]
    assert at.redis.get("result-a") == '"done"'
    assert 50 < at.redis.ttl("result-a") <= 60
    assert at.redis.get("late") is None
    at.redis.delete("result-a")


def test_a_result_without_an_end_is_kept_for_ever(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    at.ledger.finish("a", token, "completed", {}, result=Result("result-a", 0, b"\x80\xff"))
    assert at.redis.ttl("result-a") == -1
    at.redis.delete("result-a")


def test_what_is_kept_is_what_celery_would_keep(shared: Installation) -> None:
    results = {}
    for name, task in (
        ("ours", shared.task("play").delay(["give", [1, "é"]], model=shared.model())),
        ("celery's", shared.task("play").delay(["give", "x" * MAX_BYTES], model=shared.model())),
    ):
        shared.get(task)
        results[name] = json.loads(shared.redis.get(f"celery-task-meta-{task.id}"))
        assert 0 < shared.redis.ttl(f"celery-task-meta-{task.id}") <= 86400
    assert list(results["ours"]) == list(results["celery's"])
    assert results["ours"]["result"] == [1, "é"]
    assert results["ours"]["status"] == results["celery's"]["status"] == "SUCCESS"


def test_handlers_of_a_task_find_its_result(shared: Installation) -> None:
    sent = shared.task("written").delay(shared.model(), ["give", 1])
    shared.get(sent)
    eventually(lambda: shared.trace(sent, "on_success"), 30)
    assert [line["stored"] for line in shared.trace(sent, "on_success")] == ["SUCCESS"]


def test_a_plain_client_reads_the_result(shared: Installation) -> None:
    sent = shared.task("play").delay(["give", 5], model=shared.model())
    assert type(shared.foreign.backend) is RedisBackend
    assert shared.foreign.AsyncResult(sent.id).get(timeout=30) == 5


def test_sending_subscribes_to_nothing_and_asking_does(alone: Installation) -> None:
    assert type(alone.app.backend) is Backend
    sent = [alone.task("play").delay(["give", 1]) for _ in range(3)]
    # Channels are one for all databases: those of other tests may be among them.
    listened = str(alone.redis.execute_command("PUBSUB", "CHANNELS", "celery-task-meta-*"))
    assert not [result.id for result in sent if result.id in listened]
    with alone.worker():
        assert [alone.get(result) for result in sent] == [1, 1, 1]


@pytest.mark.parametrize("other", ["database", "login"])
def test_results_elsewhere_are_celerys(alone: Installation, other: str) -> None:
    url = alone.broker.rpartition("/")[0] + "/999" if other == "database" else alone.broker
    app = celery_app.create(alone.broker, alone.folder, result_backend=url)
    if other == "login":
        app.backend.connparams["username"] = "somebody"
    assert not app.backend._in_ledger
    assert alone.app.backend._in_ledger

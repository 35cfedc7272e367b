"""Messages: what the ledger pushes, what foreign producers push, and brokers that cannot be."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from coordinator import coordinate
from coordinator.errors import InvalidSetting, Refused
from tests import celery_app
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


# -- the dispatch contract ---------------------------------------------------------------------------


def pushed(own: Installation, queue: str) -> dict[str, Any]:
    """Take the one message on a queue's list, whatever its priority; nobody consumes it."""
    keys = [key for key in own.redis.keys("*") if key.split("\x06")[0] == queue]
    (key,) = [key for key in keys if own.redis.type(key) == "list"]
    (raw,) = own.redis.lrange(key, 0, -1)
    own.redis.delete(key)
    return {"key": key, **json.loads(raw)}


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between two calls of anything, and what only the coordinator writes."""
    message["properties"].pop("delivery_tag")
    # What is left until it expires, counted when it was sent.
    message["properties"].pop("expiration", None)
    message["headers"].pop("coordinator_token", None)
    message["headers"].pop("coordinator", None)
    return message


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "arguments": {"args": (["give", "ü☃"],), "kwargs": {"model": "m"}},
    "priority": {"priority": 4},
    "limits": {"time_limit": 60, "soft_time_limit": 50},
    "expires": {"expires": datetime(2090, 1, 1, tzinfo=UTC)},
    "canvas": {"link": "told", "link_error": "told", "group_id": "g", "chord": None},
    "headers": {"headers": {"own": {"deep": [1, None, 2.5, "x"]}}, "shadow": "other"},
    "routing": {"exchange": "ex", "routing_key": "rk", "queue": None},
    "compressed": {"compression": "zlib", "reply_to": "here", "ignore_result": True},
    "stamped": {"stamped_headers": ["who"], "who": "me"},
}


@pytest.mark.parametrize("call", CALLS)
def test_a_dispatched_message_equals_the_one_kombu_would_push(
    alone: Installation, call: str
) -> None:
    options = {**CALLS[call], "task_id": str(uuid.uuid4()), "root_id": "root"}
    queue = "work"
    sent = []
    for app in (alone.foreign, alone.app):
        own = dict(options)
        for link in ("link", "link_error"):
            if link in own:
                own[link] = app.tasks[own[link]].si("x").set(task_id=f"{link}-id")
        if call == "routing":
            with app.connection_for_write() as connection:
                _bind(app, connection)
            own.pop("queue")
            queue = "bound"
        app.thread_oid  # noqa: B018 - the reply address is made at the first look
        own.setdefault("reply_to", "reply")
        if app is alone.app:
            # Somebody has to be there, or nothing is dispatched.
            ledger = alone.work_queue.ledger
            alone.work_queue.ensure_open()
            ledger.renew("nobody", ["bound", "work"], 1, register=True)
        app.tasks["play"].apply_async(**own)
        sent.append(pushed(alone, queue))
    plain, coordinated = sent
    assert coordinated["key"] == queue
    assert coordinated["headers"]["coordinator_token"] > 0
    if call == "priority":
        assert plain.pop("key") == "work\x06\x163"
        coordinated.pop("key")
    assert comparable(coordinated) == comparable(plain)


def _bind(app: Celery, connection: Any) -> None:
    Queue("bound", Exchange("ex", "topic"), routing_key="rk")(connection.channel()).declare()


def test_a_delayed_message_has_no_eta_left_for_the_worker(alone: Installation) -> None:
    alone.work_queue.ensure_open()
    alone.work_queue.ledger.renew("nobody", ["work"], 1, register=True)
    eta = datetime.now(UTC) + timedelta(seconds=0.05)
    alone.task("play").apply_async(eta=eta)

    def arrived() -> bool:
        alone.work_queue.ledger.tick()
        return bool(alone.redis.exists("work"))

    eventually(arrived)
    assert pushed(alone, "work")["headers"]["eta"] is None


# -- duplicates and foreign producers -----------------------------------------------------------------


def test_the_same_delivery_twice_runs_once(shared: Installation) -> None:
    gate = shared.gate()
    result = shared.play(["block", gate], ["give", 1])
    shared.starts(result)
    ledger = shared.work_queue.ledger
    job = ledger.job(result.id)
    assert job is not None
    duplicate = f'{ledger.message(result.id)},"coordinator_token":{job["token"]}}}}}'
    shared.redis.lpush("work", duplicate)
    # The second delivery is behind the duplicate on the list.
    shared.get(shared.play(["give", 2]))
    shared.open(gate)
    assert shared.get(result) == 1
    shared.becomes(result, "completed")
    shared.redis.lpush("work", duplicate)
    shared.get(shared.play(["give", 3]))
    assert shared.runs(result) == 1
    assert shared.redis.llen("work") == 0


def test_an_old_message_of_a_run_that_goes_on_is_not_run_again(alone: Installation) -> None:
    gate = alone.gate()
    ledger = alone.work_queue.ledger
    with alone.worker(concurrency=3) as worker:
        result = alone.play(["block", gate], ["give", 1])
        alone.starts(result)
        job = ledger.job(result.id)
        assert job is not None
        duplicate = f'{ledger.message(result.id)},"coordinator_token":{job["token"]}}}}}'
        store = alone.work_queue.store

        def is_recorded() -> bool:
            return "started" in {event["event_type"] for event in store.history(result.id)}

        eventually(is_recorded, 30)
        alone.redis.flushdb()

        def is_restored() -> bool:
            # By the renewal of its worker, which does not know under which nonce it was claimed.
            again = ledger.job(result.id) or {}
            return (again.get("state"), again.get("nonce")) == ("running", "")

        eventually(is_restored, 60)
        # As of a Redis that comes back from an older dataset.
        alone.redis.lpush("work", duplicate)
        eventually(lambda: worker.said("was delivered again"), 30)
        assert alone.get(alone.play(["give", 2])) == 2
        alone.open(gate)
        assert alone.get(result) == 1
        alone.becomes(result, "completed")
    assert alone.runs(result) == 1


def test_what_is_said_of_one_delivery_does_not_touch_the_next(alone: Installation) -> None:
    alone.work_queue.ensure_open()
    ledger = alone.work_queue.ledger
    ledger.renew("nobody", ["work"], 1, register=True)
    result = alone.play()
    with alone.app.connection_for_read() as connection:
        channel = connection.channel()

        def delivered() -> Any:
            message = channel.message_to_python(json.loads(alone.redis.rpop("work")))
            channel.qos.append(message, message.delivery_tag)
            return message

        first = delivered()
        ledger.undeliver(result.id, first.headers["coordinator_token"], "a test")
        second = delivered()
        first.reject()
        assert alone.state(result) == "dispatched"
        second.reject()
        assert alone.state(result) == "canceled"


def test_a_plain_client_is_admitted_under_the_same_lock(shared: Installation) -> None:
    model = shared.model()
    task = shared.foreign.tasks["play"]
    with shared.held(model):
        mixed = [
            (task if n % 2 else shared.task("play")).delay(["spin", 0.01], ["give", n], model=model)
            for n in range(6)
        ]
        shared.waits(mixed)
    assert [shared.get(result) for result in mixed] == list(range(6))
    spans = sorted((shared.trace(r)[0]["at"], shared.trace(r)[-1]["at"]) for r in mixed)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    assert [shared.runs(result) for result in mixed] == [1] * 6


def test_what_a_plain_client_asks_for_is_kept(shared: Installation) -> None:
    model = shared.model()
    task = shared.foreign.tasks["play"]
    eta = task.apply_async((["give", 1],), {"model": model}, countdown=0.2)
    shared.becomes(eta, "delayed")
    expiring = task.apply_async((), {"model": model}, expires=600, countdown=300)
    shared.becomes(expiring, "delayed")
    header = {"coordinator": {"models": [model], "org": "acme"}}
    told = task.apply_async((["priority"],), headers=header, priority=7)
    assert shared.get(told) == 7
    retried = task.apply_async((["retry", 2], ["give", 3]), headers=header)
    member = task.s(["give", 4], model=model)
    body = shared.foreign.tasks["total"].s()
    assert shared.get(chord([member, member])(body)) == 8
    assert shared.get(chain(member, shared.foreign.tasks["add"].s(1)).delay()) == 5
    assert [shared.get(eta), shared.get(retried)] == [1, 3]
    for result in (told, retried):
        assert shared.trace(result, "start")[0]["models"] == [model]
    assert [shared.runs(result) for result in (eta, retried)] == [1, 3]
    assert shared.redis.hlen("unacked") == 0


def test_one_message_of_a_plain_client_delivered_twice_runs_once(shared: Installation) -> None:
    gate = shared.gate()
    task = shared.foreign.tasks["play"]
    results = [task.apply_async((["block", gate],), task_id=shared.gate()) for _ in range(1)]
    shared.starts(results[0])
    again = task.apply_async((["block", gate],), task_id=results[0].id)
    shared.get(shared.play(["give", 1]))
    shared.open(gate)
    shared.get(again)
    shared.becomes(again, "completed")
    assert shared.runs(again) == 1


def body(*args: Any) -> str:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return base64.b64encode(json.dumps([args, {}, embed]).encode()).decode()


def raw(**changes: Any) -> dict[str, Any]:
    """Return a message as another program may write it; None leaves a part out."""
    job_id = str(uuid.uuid4())
    headers = {"lang": "go", "task": "play", "id": job_id, "root_id": job_id}
    headers = {**headers, **changes.pop("headers", {})}
    message = {
        "body": body(["give", 1]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": job_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "work"},
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
        **changes,
    }
    return {key: value for key, value in message.items() if value is not None}


MALFORMED: dict[str, dict[str, Any]] = {
    "body": {"body": "no base64!"},
    "json": {"body": base64.b64encode(b"{]").decode()},
    "shape": {"body": base64.b64encode(b'{"a": 1}').decode()},
    "number": {"body": base64.b64encode(b"7").decode()},
    "type": {"content-type": "application/x-python-serialize"},
    "unknown type": {"content-type": "text/nothing"},
    "no id": {"headers": {"id": None}},
    "id": {"headers": {"id": {"a": 1}}},
    "half a character": {"headers": {"id": "\ud800"}},
    "zero": {"headers": {"id": "a\0b"}},
    "eta": {"headers": {"eta": "tomorrow"}},
    "expires": {"headers": {"expires": ["x"]}},
    "retries": {"headers": {"retries": "many"}},
    "task": {"headers": {"task": 7}},
    "unknown task": {"headers": {"task": "nobody.knows"}},
    "timelimit": {"headers": {"timelimit": "long"}},
    "models": {"headers": {"coordinator": {"models": ["a b"]}}},
    "header": {"headers": {"coordinator": "yes"}},
    "models shape": {"headers": {"coordinator": {"models": {"a": [1]}, "call": 7}}},
    "no headers": {"headers": {"task": None}},
    "token": {"headers": {"coordinator_token": "x"}},
}


def test_malformed_messages_do_not_stop_the_worker(shared: Installation) -> None:
    messages = {name: raw(**change) for name, change in MALFORMED.items()}
    for message in messages.values():
        shared.redis.lpush("work", json.dumps(message))
    good = raw()
    shared.redis.lpush("work", json.dumps(good))
    result = shared.app.AsyncResult(good["headers"]["id"])
    assert shared.get(result) == 1
    eventually(lambda: shared.redis.hlen("unacked") == 0, 30)
    assert shared.get(shared.play(["give", 2])) == 2
    for name in ("eta", "retries", "models", "header"):
        refused = shared.app.AsyncResult(messages[name]["headers"]["id"])
        shared.ends(refused, "FAILURE")
    for name in ("body", "json", "type", "eta", "models", "token"):
        assert shared.runs(messages[name]["headers"]["id"]) == 0


def test_a_message_that_can_never_start_ends_no_worker(alone: Installation) -> None:
    model = alone.model()
    with alone.worker(coordinator_limits={f"model:{model}": 0}) as worker:
        foreign = alone.foreign.tasks["play"]
        never = foreign.apply_async((["give", 1],), {"model": model})
        alone.ends(never, "FAILURE")
        assert alone.get(foreign.apply_async((["give", 2],))) == 2
        assert worker.said("could never start")
    assert alone.runs(never) == 0


def test_a_worker_outlives_a_rejection_that_the_ledger_does_not_hear(alone: Installation) -> None:
    alone.work_queue.ensure_open()
    ledger = alone.work_queue.ledger
    ledger.renew("nobody", ["work"], 1, register=True)
    result = alone.play()
    with alone.app.connection_for_read() as connection:
        channel = connection.channel()
        message = channel.message_to_python(json.loads(alone.redis.rpop("work")))
        channel.qos.append(message, message.delivery_tag)
        meta = f"{ledger.prefix}meta"
        epoch = alone.redis.hgetall(meta)
        alone.redis.delete(meta)
        message.reject()
        alone.redis.hset(meta, mapping=epoch)
    assert alone.state(result) == "dispatched", "its dispatch lease ends later"


def test_a_message_of_another_language_says_what_it_needs(shared: Installation) -> None:
    model = shared.model()
    message = raw(headers={"coordinator": {"models": [model], "max_retries": 0}})
    with shared.held(model):
        shared.redis.lpush("work", json.dumps(message))
        result = shared.app.AsyncResult(message["headers"]["id"])
        shared.becomes(result, "waiting")
    assert shared.get(result) == 1
    assert shared.trace(result, "start")[0]["models"] == [model]


# -- what is left to plain Celery ---------------------------------------------------------------------


def test_a_call_a_task_and_a_queue_can_be_left_to_celery(alone: Installation) -> None:
    alone.conf["coordinator_exclude_queues"] = ["free"]
    with alone.worker(queues=["work", "free"], concurrency=4):
        gate = alone.gate()
        results = [
            alone.task("plain").delay(["block", gate]),
            alone.task("plain_late").delay(["block", gate]),
            alone.task("play").apply_async((["block", gate],), {"model": "m"}, queue="free"),
            alone.task("play").apply_async((["block", gate],), {"model": "m"}, coordinated=False),
        ]
        assert [alone.state(result) for result in results] == ["unknown"] * 4
        alone.starts(results[1])
        # Kombu's own emulation holds what is acknowledged late.
        assert alone.redis.hlen("unacked") >= 1
        alone.open(gate)
        for result in results:
            alone.get(result)
            assert [line["token"] for line in alone.trace(result)] == [None, None]
        eventually(lambda: alone.redis.hlen("unacked") == 0, 30)
        retried = alone.task("plain").delay(["retry"], ["give", 1])
        assert alone.get(retried) == 1
        assert alone.state(retried) == "unknown"


# -- what cannot be coordinated -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["amqp://guest@127.0.0.1//", "memory://", "sqla+sqlite://", "sqs://", "filesystem://"]
)
def test_another_broker_than_redis_is_refused(tmp_path: Path, url: str) -> None:
    app = celery_app.create(url, tmp_path, code=False)
    for _ in range(2):
        with pytest.raises(
            InvalidSetting, match=r"broker_url: .* is not allowed: a Redis URL"
        ) as e:
            app.send_task("play")
        assert url in str(e.value)


def test_a_broker_on_another_database_than_the_ledger_is_refused(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0"
    app = celery_app.create(
        url, tmp_path, code=False, coordinator_redis_url="redis://127.0.0.1:1/1"
    )
    with pytest.raises(InvalidSetting, match="coordinator_redis_url"):
        app.send_task("play")


def test_one_database_may_be_written_in_two_ways(tmp_path: Path) -> None:
    app = celery_app.create(
        "redis://localhost/0", tmp_path, coordinator_redis_url="redis://127.0.0.1:6379"
    )
    assert app.conf.broker_transport.startswith("coordinator")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("coordinator_lease_secnds", 3, "did you mean 'coordinator_lease_seconds'"),
        ("coordinator_lease_seconds", "long", "coordinator_lease_seconds"),
        ("task_protocol", 1, "task_protocol"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, setting: str, value: Any, words: str
) -> None:
    app = celery_app.create("redis://127.0.0.1:1/0", tmp_path, code=False, **{setting: value})
    with pytest.raises(InvalidSetting, match=words):
        app.send_task("play")


def test_an_app_that_is_in_use_cannot_be_coordinated() -> None:
    app = Celery("used", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.amqp.queues  # noqa: B018 - used
    with pytest.raises(Refused, match="before"):
        coordinate(app)


def test_coordinating_twice_changes_nothing(tmp_path: Path) -> None:
    app = celery_app.create("redis://127.0.0.1:1/0", tmp_path)
    before = app.coordination
    assert coordinate(app).coordination is before


def test_two_coordinated_apps_of_one_process_keep_to_themselves(
    shared: Installation, alone: Installation
) -> None:
    assert shared.app.conf.broker_transport != alone.app.conf.broker_transport
    here, there = shared.play(["give", 1]), alone.play(["give", 2])
    assert shared.get(here) == 1
    assert alone.state(there) == "waiting"
    assert shared.state(there) == "unknown"
    assert alone.app.tasks["coordinator.reap"].app is alone.app


def test_a_plain_kombu_connection_is_left_alone(shared: Installation) -> None:
    with Connection(shared.broker) as connection, connection.SimpleQueue("other") as queue:
        queue.put({"a": 1})
        message = queue.get(timeout=10)
        assert message.payload == {"a": 1}
        message.ack()


def test_other_serializers_are_as_the_app_configured_them(alone: Installation) -> None:
    alone.conf.update(task_serializer="yaml", accept_content=["yaml", "json"])
    model = "m"
    with alone.worker(concurrency=1):
        assert alone.get(alone.play(["give", 1], model=model)) == 1
        with alone.held(model):
            result = alone.play(["give", 2], model=model)
            result.revoke()
            alone.ends(result, "REVOKED")
        assert alone.get(alone.play(["retry"], ["give", 3], model=model)) == 3

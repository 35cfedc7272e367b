"""Health and alerts: each threshold with its reason, probes of every part, alerts over time, a real webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import InvalidValue, LedgerClosed
from coordinator.operations.alerts import CALLS
from coordinator.operations.health import QueueHealth
from coordinator.operations.webhook import CALL_SECONDS, post
from coordinator.settings import load
from coordinator.work_queue import WorkQueue
from tests.helpers import eventually, free_port

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]


def health(desk: Desk, queue: str = "work") -> QueueHealth:
    desk.record()
    (found,) = desk.queue.get_queue_health(queue)
    return found


def causes(desk: Desk, queue: str = "work") -> dict[str, str]:
    return {one.name: one.level for one in health(desk, queue).causes}


@pytest.fixture
def with_rules(
    alone: Installation, open_desk: Callable[[Installation], Desk]
) -> Iterator[Callable[..., Desk]]:
    desks = []

    def make(**conf: Any) -> Desk:
        alone.conf.update({f"coordinator_{name}": value for name, value in conf.items()})
        desks.append(open_desk(alone))
        return desks[-1]

    yield make
    for own in desks:
        own.ledger.pool.disconnect()


def test_a_queue_without_trouble_is_healthy(desk: Desk) -> None:
    desk.end(desk.send())
    found = health(desk)
    assert (found.level, found.causes, found.failed, found.waiting) == ("healthy", (), 0.0, 0)
    assert found.wait is not None


@pytest.mark.parametrize(("limit", "level"), [(10, None), (5, "degraded"), (4, "unhealthy")])
def test_capacity_is_the_share_of_the_queues_limit(
    desk: Desk, limit: int, level: str | None
) -> None:
    desk.queue.limit("queue:work", limit)
    for _ in range(4):
        desk.send()
    assert causes(desk).get("capacity") == level
    assert health(desk).capacity == 400 / limit


def test_waiting_failed_and_wait_have_two_thresholds(with_rules: Callable[..., Desk]) -> None:
    desk = with_rules(health={"waiting": [2, 4], "wait": [0, 1000], "failed": [25, 50]})
    desk.queue.pause("training")
    for number, level in enumerate((None, None, "degraded", "degraded", "unhealthy")):
        assert causes(desk, "training").get("waiting") == level, number
        desk.send(queue="training")
    for _ in range(3):
        desk.end(desk.send())
    desk.fail("x")
    found = health(desk)
    assert {(one.name, one.level) for one in found.causes} == {
        ("failed", "degraded"),
        ("wait", "degraded"),
    }
    assert found.failed == 25
    texts = {one.name: one.text for one in found.causes}
    assert texts["failed"] == "1 of 4 jobs failed: 25 % (from 25 %)"
    desk.fail("x")
    desk.fail("x")
    assert causes(desk)["failed"] == "unhealthy"


def test_what_stops_a_queue_is_a_cause(desk: Desk) -> None:
    desk.send(queue="selfplay")
    assert causes(desk, "selfplay") == {"no_worker": "unhealthy"}
    desk.queue.pause("work", by="ann", reason="upgrade")
    assert causes(desk) == {"paused": "degraded"}
    assert "paused by ann" in health(desk).causes[0].text
    desk.queue.open_panic("queue:training", reason="fire")
    assert causes(desk, "training") == {"panic": "unhealthy"}
    report = desk.queue.health_check()
    assert not report.is_healthy
    assert report.message.startswith("selfplay: 1 job pending and no live worker")
    assert report.details["queues"]["work"] == "degraded"
    with pytest.raises(InvalidValue, match="did you mean 'work'"):
        desk.queue.get_queue_health("wrok")


def test_a_worker_that_takes_nothing_degrades_its_queues(desk: Desk) -> None:
    report = {"node": "w", "idle_seconds": 30}
    desk.ledger.renew(desk.worker, ("work", "training"), 10, report=report)
    assert causes(desk) == {"idle_worker": "degraded"}


def test_live_and_ready_are_different_questions(desk: Desk) -> None:
    queue = desk.queue
    assert queue.get_liveness().ok
    assert queue.get_readiness().ok
    assert queue.get_liveness("w").ok
    other = queue.get_liveness("w2")
    assert not other.ok
    assert other.checks[-1].text == "worker w2 has no lease; there are w"
    desk.ledger.leave(desk.worker)
    assert queue.get_liveness().ok
    ready = queue.get_readiness()
    assert [one.name for one in ready.checks if not one.ok] == ["workers"]
    assert queue.health_check().details["level"] == "unhealthy"


def test_an_installation_without_its_parts_answers_too() -> None:
    environ = {
        "COORDINATOR_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "COORDINATOR_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
    }
    queue = WorkQueue(load({}, environ))
    queue.ledger.patience = 0.1
    assert not queue.get_liveness().ok
    # A worker that waits for Redis must not be restarted for it.
    worker = queue.get_liveness("w")
    assert worker.ok
    assert [(one.name, one.ok) for one in worker.checks] == [("redis", False), ("worker", True)]
    ready = queue.get_readiness()
    assert [one.name for one in ready.checks if not one.ok] == ["redis", "database"]
    report = queue.health_check()
    assert not report.is_healthy
    assert "Redis cannot be reached" in report.message


class Webhook:
    """A server that takes what is posted, or refuses it."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.calls = 0
        self.status = 200
        self.content_type = ""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.calls += 1
                hook.content_type = self.headers["Content-Type"]
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.got.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    own = Webhook()
    yield own
    own.close()


def looked(desk: Desk) -> list[tuple[str, str]]:
    desk.record()
    return [(one.name, one.level) for one in desk.queue.evaluate_alerts()]


def test_depth_warns_at_once_and_is_critical_after_a_while(
    with_rules: Callable[..., Desk], webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "coordinator")
    desk = with_rules(
        alerts={"queue_depth": [1, 2], "queue_depth_for": 0.3, "webhook": webhook.url}
    )
    desk.queue.pause("work")
    ids = [desk.send() for _ in range(2)]
    assert looked(desk) == [("queue_depth", "warning")]
    assert looked(desk) == [], "told once"
    ids.append(desk.send())
    assert looked(desk) == [], "not for long yet"
    eventually(lambda: looked(desk) == [("queue_depth", "critical")], 5, 0.05)
    (alert,) = desk.queue.get_alerts()
    assert (alert.scope, alert.value, alert.threshold, alert.delivered) == ("work", 3, 2, True)
    for one in ids:
        desk.queue.cancel_job(one)
    assert looked(desk) == [("queue_depth", "resolved")]
    assert looked(desk) == []
    assert desk.queue.get_alerts() == []
    assert [one["level"] for one in webhook.got] == ["warning", "critical", "resolved"]
    assert webhook.got[1]["message"].startswith("3 jobs pending on queue work")
    told = [line for line in caplog.messages if line.startswith("[COORDINATOR] alert ")]
    assert [line.split()[5].rstrip(":") for line in told] == ["warning", "critical", "resolved"]


def test_a_webhook_that_does_not_answer_is_tried_again_and_given_up(
    with_rules: Callable[..., Desk], webhook: Webhook
) -> None:
    webhook.status = 500
    desk = with_rules(alerts={"queue_depth": [0, 9], "webhook": webhook.url})
    desk.queue.pause("work")
    desk.send()
    looked(desk)
    assert not desk.queue.get_alerts()[0].delivered
    webhook.status = 200
    looked(desk)
    assert desk.queue.get_alerts()[0].delivered
    assert len(webhook.got) == 1
    webhook.status = 500
    desk.queue.clear_all("work")
    before = webhook.calls
    for _ in range(CALLS + 3):
        looked(desk)
    assert webhook.calls - before == CALLS
    assert desk.queue.store.conditions("alert") == {}


def test_a_webhook_gets_json_and_nothing_but_http_is_called(
    webhook: Webhook, tmp_path: Path
) -> None:
    assert post(webhook.url, {"level": "warning"}) is None
    assert webhook.got == [{"level": "warning"}]
    assert webhook.content_type == "application/json"
    webhook.status = 500
    assert "500" in str(post(webhook.url, {}))
    file = tmp_path / "file"
    file.touch()
    assert "unknown url type" in str(post(file.as_uri(), {}))
    assert post("nothing", {}) is not None


def test_a_webhook_that_hangs_costs_its_timeout_only() -> None:
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        error = post(f"http://127.0.0.1:{deaf.getsockname()[1]}/", {})
        assert error is not None
        assert "timed out" in error
        assert time.monotonic() - began < CALL_SECONDS + 2


def test_failure_rate_stuck_completion_and_silent_workers(with_rules: Callable[..., Desk]) -> None:
    desk = with_rules(
        alerts={
            "failure_volume": 2,
            "stuck_jobs": 0,
            "time_since_completion": 1,
            "worker_silent": 1,
        }
    )
    assert looked(desk) == []
    desk.fail("x")
    assert looked(desk) == [], "one job says nothing"
    desk.fail("x")
    assert looked(desk) == [("failure_rate", "critical")]
    desk.queue.store.enrol_worker("w9/here/1/1", ["work"], 1, {}, desk.ledger.clock())
    hang = desk.send("m")
    desk.start(hang)
    desk.ledger.redis.hset(f"{desk.ledger.prefix}job:{hang}", "started", 1)
    assert ("stuck_jobs", "critical") in looked(desk)
    desk.queue.pause("training")
    desk.send(queue="training")
    names = {"failure_rate", "stuck_jobs", "time_since_completion", "worker_silent"}

    def all_raised() -> bool:
        looked(desk)
        return {one.name for one in desk.queue.get_alerts()} == names

    eventually(all_raised, 10, 0.1)
    (silent,) = [one for one in desk.queue.get_alerts() if one.name == "worker_silent"]
    assert silent.scope == "w9", "the one that lives is not missed"
    assert "coordinator workers forget" in silent.message


def test_alerts_outlive_a_wiped_redis(with_rules: Callable[..., Desk], alone: Installation) -> None:
    desk = with_rules(alerts={"queue_depth": [0, 9]})
    desk.queue.pause("work")
    desk.send()
    assert looked(desk) == [("queue_depth", "warning")]
    since = desk.queue.get_alerts()[0].since
    alone.redis.flushdb()
    with pytest.raises(LedgerClosed):
        desk.queue.evaluate_alerts()
    again = WorkQueue(alone.app.coordination.settings)
    again.wait_until_open()
    assert again.evaluate_alerts() == []
    assert again.get_alerts()[0].since == since
    again.ledger.pool.disconnect()


def test_one_looks_at_a_time(desk: Desk) -> None:
    assert desk.ledger.elect("alerts", "somebody", 60_000)
    assert desk.queue.evaluate_alerts() == []

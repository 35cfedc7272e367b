"""Flower: which jobs it is told of, its login, its links; and a real page of it in a real browser."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from celery.events.state import State as CeleryState
from kombu.utils.json import dumps

from coordinator.flower import kept_login, login
from coordinator.flower_events import FlowerEvents
from tests import celery_app
from tests.helpers import eventually, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk", "tests.console_site"]

LOGIN = ("ann", "a password")


class Told:
    """Takes events as Flower does, and shows the states it would."""

    def __init__(self, desk: Desk) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.state = CeleryState()
        queue = desk.queue
        self.own = FlowerEvents(queue.ledger, queue.store, self.send, "me")

    def send(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))
        event = {"hostname": "w@test", "timestamp": time.time(), "local_received": time.time()}
        self.state.event({"type": kind, "clock": len(self.events), **event, **fields})

    def shown(self, job_id: str) -> str:
        return str(self.state.tasks[job_id].state)


def test_what_waits_is_told_once_with_its_reason_and_models(desk: Desk) -> None:
    holder, blocked = desk.send("m"), desk.send("m")
    delayed = desk.send("other", countdown=3600)
    desk.record()
    told = Told(desk)
    assert told.own.tick() == 2
    assert (told.shown(blocked), told.shown(delayed)) == ("BLOCKED", "DELAYED")
    assert holder not in told.state.tasks, "what is on its way to a worker is the worker's to tell"
    task = told.state.tasks[blocked]
    assert task.result == f"Model conflict: m in use by normal job {holder} (models: m)"
    assert task.name == "play"
    assert "'m'" in task.kwargs
    assert told.state.tasks[delayed].result.startswith("due 20")
    assert told.own.tick() == 0


def test_what_a_worker_tells_afterwards_is_shown(desk: Desk) -> None:
    desk.send("m")
    blocked = desk.send("m")
    desk.record()
    told = Told(desk)
    told.own.tick()
    for kind, state in (
        ("task-received", "RECEIVED"),
        ("task-started", "STARTED"),
        ("task-succeeded", "SUCCESS"),
    ):
        told.send(kind, uuid=blocked, name="play", result="5", runtime=1.0)
        assert told.shown(blocked) == state


def test_ends_without_a_worker_are_told_and_others_are_not(desk: Desk) -> None:
    holder, canceled, runs = desk.send("m"), desk.send("m"), desk.send("m")
    desk.record()
    told = Told(desk)
    assert told.own.tick() == 2
    desk.queue.cancel_job(canceled, by="ann")
    desk.end(holder)
    desk.start(runs)
    desk.record()
    assert told.own.tick() == 1
    assert told.shown(canceled) == "REVOKED"
    assert told.shown(runs) == "BLOCKED", "its worker says that it started"


def test_a_row_that_the_recorder_has_not_come_to_is_not_told_yet(desk: Desk) -> None:
    desk.send("m")
    told = Told(desk)
    assert told.own.tick() == 0
    desk.record()
    assert told.own.tick() == 0, "it was on its way to a worker all the time"


def test_one_tells_and_a_new_flower_hears_it_all_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send("m")
    blocked = desk.send("m")
    desk.record()
    first, second = Told(desk), Told(desk)
    second.own.holder = "another"
    assert (first.own.tick(), second.own.tick()) == (1, 0)
    monkeypatch.setattr("coordinator.flower_events.AGAIN_SECONDS", 0.0)
    assert first.own.tick() == 1
    first.own.resign()
    assert second.own.tick() == 1
    assert second.shown(blocked) == "BLOCKED"


def test_who_takes_the_term_back_tells_as_much_as_the_first_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.flower_events.MOST", 1)
    for _ in range(2):
        desk.send("m")
    desk.record()
    first, second = Told(desk), Told(desk)
    second.own.holder = "another"
    assert first.own.tick() == 1
    first.own.resign()
    assert (second.own.tick(), first.own.tick()) == (1, 0)
    second.own.resign()
    assert first.own.tick() == 1


def test_the_login_is_chosen_once_and_given_way_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user, password, file = kept_login(tmp_path)
    assert login(tmp_path, ["celery"]) == [f"{user}:{password}"]
    assert file.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().err
    assert str(file) in said
    assert password not in said
    for word in ("--basic-auth=a:b", "--auth=.*@example.com", "--auth_provider=x"):
        assert login(tmp_path, ["celery", word]) == []
    (tmp_path / "secret").write_text("ann:b\n")
    monkeypatch.setenv("FLOWER_BASIC_AUTH_FILE", str(tmp_path / "secret"))
    assert login(tmp_path, ["celery"]) == ["ann:b"]


@contextmanager
def flower(env: dict[str, str], app: str, log: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = ["python", "-m", "celery", "-A", app, "flower", f"--port={port}", *options]
    with running(*command, env=env, log=log) as process:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx2.get(f"{url}/healthcheck").status_code == 200
            except httpx2.TransportError:
                return False

        eventually(answers, timeout=60, interval=0.2)
        yield url


def test_celery_flower_of_the_shipped_app_wants_a_login(
    alone: Installation, tmp_path: Path
) -> None:
    env = {
        "COORDINATOR_REDIS_URL": alone.broker,
        "COORDINATOR_DATABASE_URL": f"sqlite:///{tmp_path}/own.db",
        "COORDINATOR_DATA_DIR": str(tmp_path),
        "COORDINATOR_CONSOLE_URL": "http://127.0.0.1:8770",
    }
    with flower(env, "tasks", tmp_path / "flower.log") as url:
        assert httpx2.get(f"{url}/tasks").status_code == 401
        kept = json.loads((tmp_path / "flower.json").read_text())
        answer = httpx2.get(f"{url}/tasks", auth=(kept["user"], kept["password"]))
        assert answer.status_code == 200
        assert 'href="http://127.0.0.1:8770/console/"' in answer.text
        assert kept["password"] not in (tmp_path / "flower.log").read_text()


@pytest.mark.browser
def test_a_real_page_shows_blocked_and_delayed_jobs(
    alone: Installation, browser: Browser, tmp_path: Path
) -> None:
    env = {
        celery_app.BROKER: alone.broker,
        celery_app.FOLDER: str(alone.folder),
        celery_app.SETTINGS: dumps(alone.conf),
        "FLOWER_BASIC_AUTH": ":".join(LOGIN),
    }
    config = tmp_path / "flowerconfig.py"
    config.write_text(
        "from coordinator.flower import COLUMNS, link_console, login\n"
        "basic_auth = login('.')\ntasks_columns = COLUMNS\nlink_console('http://127.0.0.1:8770')\n"
    )
    log = tmp_path / "flower.log"
    with (
        flower(env, "tests.celery_app", log, f"--conf={config}") as url,
        alone.worker(concurrency=1),
    ):
        model, gate = alone.model(), alone.gate()
        running_job = alone.task("play").apply_async([["wait", gate]], {"model": model})
        alone.starts(running_job)
        blocked = alone.task("play").apply_async([], {"model": model})
        delayed = alone.task("play").apply_async([], {"model": model}, countdown=3600)
        reason = f"Model conflict: {model} in use by normal job {running_job.id}"

        def state(job: Any) -> dict[str, Any]:
            answer = httpx2.get(f"{url}/api/task/info/{job.id}", auth=LOGIN)
            return dict(answer.json()) if answer.status_code == 200 else {}

        eventually(lambda: state(blocked).get("state") == "BLOCKED", timeout=60, interval=0.3)
        eventually(lambda: state(delayed).get("state") == "DELAYED", timeout=60, interval=0.3)
        assert reason in state(blocked)["result"]
        context = browser.new_context(http_credentials={"username": LOGIN[0], "password": LOGIN[1]})
        try:
            page = context.new_page()
            page.goto(f"{url}/tasks")
            for job, word in ((blocked, "BLOCKED"), (delayed, "DELAYED")):
                row = page.locator("tr", has=page.locator(f"text={job.id}"))
                row.wait_for(timeout=60_000)
                assert word in row.inner_text()
            row = page.locator("tr", has=page.locator(f"text={blocked.id}"))
            assert model in row.inner_text()
            page.goto(f"{url}/task/{blocked.id}")
            page.locator(f"text={reason}").first.wait_for(timeout=30_000)
            link = page.locator("#coordinator-job")
            assert link.get_attribute("href") == (
                f"http://127.0.0.1:8770/console/job?id={blocked.id}"
            )
        finally:
            context.close()
        alone.open(gate)
        alone.ends(blocked, "SUCCESS")
        eventually(lambda: state(blocked).get("state") == "SUCCESS", timeout=60, interval=0.3)

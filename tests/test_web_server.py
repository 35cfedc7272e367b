"""The HTTP API as it runs: a process of its own, a real worker, live updates, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from click.testing import CliRunner
from kombu.utils.json import dumps

from coordinator.cli import main
from coordinator.machine.programs import WEB, WEB_PORT, plan, web_port
from coordinator.settings import load
from coordinator.web.accounts import Accounts
from tests import celery_app
from tests.helpers import eventually, free_port, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


class Host:
    """A running ``coordinator web``.

    Args:
        installation: whose.
        port: where it listens.
        token: of an admin.
    """

    def __init__(self, installation: Installation, port: int, token: str) -> None:
        self.installation, self.url = installation, f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        self.pid = 0

    def lives(self) -> bool:
        try:
            return self.client.get("/live").status_code == 200
        except httpx2.TransportError:
            return False


def environment(installation: Installation) -> dict[str, str]:
    return {
        celery_app.BROKER: installation.broker,
        celery_app.FOLDER: str(installation.folder),
        celery_app.SETTINGS: dumps(installation.conf),
    }


@pytest.fixture
def call(alone: Installation) -> Iterator[Callable[..., Any]]:
    """Call a command of the test's app; returns its answer, or what it told when it was to fail."""
    module = ModuleType("web_app")
    module.app = alone.app  # type: ignore[attr-defined]  # a module made here
    sys.modules["web_app"] = module

    def run(*words: str, entered: str = "", code: int = 0) -> Any:
        done = CliRunner().invoke(main, ("-A", "web_app", *words, "--json"), input=entered)
        assert done.exit_code == code, done.output + repr(done.exception)
        return done.output if code else json.loads(done.stdout)

    yield run
    del sys.modules["web_app"]


@pytest.fixture
def host(alone: Installation) -> Iterator[Host]:
    token = Accounts(alone.work_queue.store).create_token("ci", "admin", by="test")
    port, log = free_port(), alone.folder / "web.log"
    words = ("-A", "tests.celery_app", "web", "--port", str(port))
    with running("python", "-m", "coordinator", *words, env=environment(alone), log=log) as process:
        own = Host(alone, port, token)
        own.pid = process.pid

        def lives() -> bool:
            assert process.poll() is None, log.read_text()
            return own.lives()

        eventually(lives, timeout=60, interval=0.2)
        with contextlib.closing(own.client):
            yield own
        assert "Traceback" not in log.read_text()


class Listening(threading.Thread):
    """Reads live updates as they come."""

    def __init__(self, host: Host, **headers: str) -> None:
        super().__init__(daemon=True)
        self.host, self.headers = host, headers
        self.lines: list[str] = []
        self.status = 0
        self.begun, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        with self.host.client.stream("GET", "/events", headers=self.headers, timeout=60) as answer:
            self.status = answer.status_code
            for line in answer.iter_lines():
                self.lines.append(line)
                self.begun.set()
        self.ended.set()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in list(self.lines) if line.startswith("data: ")]

    def verbs(self, job_id: str) -> list[str]:
        return [one["event"] for one in self.entries if one["job_id"] == job_id]


def test_a_job_over_http_from_its_submission_to_its_end(
    host: Host, alone: Installation, call: Callable[..., Any]
) -> None:
    listening = Listening(host)
    listening.start()
    assert listening.begun.wait(30)
    assert listening.status == 200
    gate, model = alone.gate(), alone.model()
    with alone.worker():
        body = {"task": "play", "args": [["wait", gate]], "model": model}
        first = host.client.post("/jobs", json=body).json()["job_id"]
        eventually(
            lambda: host.client.get(f"/jobs/{first}").json()["status"] == "PROCESSING", timeout=30
        )
        told = host.client.post(
            "/jobs", json={"task": "play", "args": [["give", 7]], "model": model}
        )
        assert told.status_code == 202
        second = told.json()
        assert second["blocked_by_job_id"] == first
        why = host.client.get(f"/jobs/{second['job_id']}/why").json()
        assert why["obstacles"][0]["holders"][0]["id"] == first
        again = call("why", second["job_id"])
        # Averages move while one looks.
        for one in (why, again):
            one.pop("expected_start_ms")
        assert why == again
        alone.open(gate)
        eventually(
            lambda: host.client.get(f"/jobs/{second['job_id']}").json()["status"] == "COMPLETED",
            timeout=30,
        )
        eventually(lambda: "completed" in listening.verbs(second["job_id"]), timeout=10)
    # Each once, in their order, and as the log has them.
    verbs = [verb for verb in listening.verbs(second["job_id"]) if verb != "requested"]
    assert verbs == ["submitted", "blocked", "dispatched", "started", "completed"]
    assert len({one["cursor"] for one in listening.entries}) == len(listening.entries)
    events = host.client.get(f"/jobs/{second['job_id']}/events").json()["events"]
    assert {one["cursor"] for one in events} <= {one["cursor"] for one in listening.entries}
    # Whoever comes back is told what came meanwhile.
    late = Listening(host, **{"Last-Event-ID": events[0]["cursor"]})
    late.start()
    eventually(lambda: "completed" in late.verbs(second["job_id"]), timeout=10)
    assert "submitted" not in [one["event"] for one in late.entries if one == events[0]]
    # The end of the server is the end of its streams; it does not wait for their listeners.
    os.kill(host.pid, signal.SIGTERM)
    assert listening.ended.wait(10)
    assert late.ended.wait(10)
    eventually(lambda: not host.lives(), timeout=10)


def test_tokens_and_users_by_command(alone: Installation, call: Callable[..., Any]) -> None:
    made = call("web", "token", "create", "ci", "--for", "30d", "--by", "ann")
    assert made["scope"] == "viewer"
    (listed,) = call("web", "token", "list")
    assert (listed["name"], listed["created_by"], listed["used_at"]) == ("ci", "ann", None)
    assert made["token"] not in json.dumps(listed)
    assert call("web", "token", "revoke", "ci") == {"revoked": "ci"}
    assert call("web", "token", "list") == []
    told = call(
        "web",
        "user",
        "add",
        "ann",
        "--scope",
        "admin",
        "--password-stdin",
        entered="correct horse battery\n",
    )
    assert told == {"user": "ann", "scope": "admin"}
    assert [one["name"] for one in call("web", "user", "list")] == ["ann"]
    before = alone.work_queue.store.user("ann")
    entered = "another horse battery\n"
    call("web", "user", "password", "ann", "--password-stdin", entered=entered)
    after = alone.work_queue.store.user("ann")
    assert before is not None
    assert after is not None
    assert before.password != after.password
    assert call("web", "user", "remove", "ann") == {"removed": "ann"}
    verbs = [entry.event for entry in alone.work_queue.get_audit()]
    assert verbs == [
        "user_removed",
        "password_changed",
        "user_added",
        "token_revoked",
        "token_created",
    ]
    long = "correct horse battery\n"
    assert "no token" in call("web", "token", "revoke", "ci", code=1)
    assert "no user" in call(
        "web", "user", "password", "ann", "--password-stdin", entered=long, code=1
    )
    short = call("web", "user", "add", "bob", "--password-stdin", entered="short\n", code=2)
    assert "password" in short
    assert "name" in call("web", "token", "create", "a b", code=2)


def test_a_taken_port_is_left_alone() -> None:
    with socket.socket() as taken:
        # Unless somebody else has it already, which is as good.
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", WEB_PORT))
            taken.listen()
        port = web_port()
        assert port != WEB_PORT
        socket.create_server(("127.0.0.1", port)).close()


def test_what_up_starts(tmp_path: Path) -> None:
    port = web_port()
    settings = load({"coordinator_redis_url": "redis://127.0.0.1:1/0"}, {})
    programs = {one.name: one for one in plan(settings, "tasks", tmp_path, None, port)}
    assert programs[WEB].command[1:] == (
        "-m",
        "coordinator",
        "-A",
        "tasks",
        "web",
        "--port",
        str(port),
    )
    assert WEB not in {one.name for one in plan(settings, "tasks", tmp_path, None)}

"""Brokers by their URLs: whatever Kombu makes of one, every message passes the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from coordinator.errors import InvalidSetting
from tests import celery_app
from tests.helpers import eventually, redis_executable, running
from tests.workers import Installation


@pytest.fixture
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Redis that listens on a Unix socket alone, with a password: its path."""
    folder = tmp_path_factory.mktemp("socket")
    path = folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", path, "--save", "", "--requirepass", "secret")
    with running(redis_executable(), *options, cwd=folder, grace=0):
        client = redis.Redis(unix_socket_path=str(path), password="secret")

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually(answers)
        client.close()
        yield path


def test_jobs_over_a_unix_socket_are_coordinated(socket: Path, tmp_path: Path) -> None:
    own = Installation(f"redis+socket://:secret@{socket}?virtual_host=3", tmp_path)
    model, gate = own.model(), own.gate()
    assert own.app.connection().transport_cls == own.app.conf.broker_transport
    with own.worker():
        first = own.play(["block", gate], ["give", 1], model=model)
        own.starts(first)
        second = own.play(["give", 2], model=model)
        own.becomes(second, "waiting")
        own.open(gate)
        assert [own.get(first), own.get(second)] == [1, 2]
    assert own.trace(second, "start")[0]["token"] > own.trace(first, "start")[0]["token"]
    own.work_queue.ledger.pool.disconnect()


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/0",
        "rediss://127.0.0.1:1/0",
        "redis+socket:///run/redis.sock?virtual_host=2",
        "redis+socket://:secret@/run/redis.sock",
    ],
)
def test_a_connection_never_changes_its_transport(tmp_path: Path, url: str) -> None:
    app = celery_app.create(url, tmp_path, code=False)
    own = app.conf.broker_transport
    assert own.startswith("coordinator")
    for connection in (app.connection_for_read(), app.connection_for_write()):
        copy = connection.clone()
        assert [connection.transport_cls, copy.transport_cls] == [own, own]
        assert copy.as_uri() == connection.as_uri()
        assert connection.info()["transport"] == url.partition(":")[0].partition("+")[0]
        copy.switch("redis://127.0.0.1:2/0")
        assert (copy.transport_cls, copy.port) == (own, 2)


def test_a_unix_url_is_refused_with_the_way_out(tmp_path: Path) -> None:
    app = celery_app.create("unix:///run/redis.sock", tmp_path, code=False)
    with pytest.raises(InvalidSetting, match=r"unix:///run.*redis\+socket:///path"):
        app.send_task("play")


@pytest.mark.parametrize("said", [None, 30.0])
def test_a_fetch_that_is_never_answered_is_given_up(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: float | None
) -> None:
    monkeypatch.setattr("coordinator.messages.transport.SILENCE", 0.2)
    options = {} if said is None else {"socket_timeout": said}
    own = Installation(redis_url, tmp_path, {"broker_transport_options": options})
    with own.app.connection_for_read() as connection:
        channel = connection.default_channel
        assert channel.pool.connection_kwargs["socket_timeout"] == (said or 1.2)
        if said is None:
            # An answer to a fetch that was never sent, as after a reconnect.
            fetching = channel.pool.get_connection()
            with pytest.raises(channel.connection_errors):
                channel.client.parse_response(fetching, "BRPOP")
            channel.pool.release(fetching)

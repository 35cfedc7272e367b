"""The machine's own Redis: one address per data folder, kept, private, and moved only in need."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from coordinator.embedded import Embedded, redis_url, server_version, trouble
from coordinator.errors import CoordinatorError
from coordinator.settings import Settings
from tests.helpers import eventually, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    embedded = Embedded(tmp_path)
    with running(*embedded.command(), log=tmp_path / "log"):
        eventually(embedded.is_running)
        yield embedded


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_address_is_chosen_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path)
    assert embedded.url == Embedded(tmp_path).url
    assert f"@127.0.0.1:{embedded.port}/0" in embedded.url
    assert mode(embedded.address_file) == 0o600
    assert mode(embedded.folder) == 0o700
    assert Embedded(tmp_path / "other").url != embedded.url


def test_processes_that_create_the_address_at_once_agree(tmp_path: Path) -> None:
    # All of them wait at the gate, so that they come at the same moment and not one after the other.
    read, write = os.pipe()
    code = (
        "import os, sys; from pathlib import Path; from coordinator.embedded import Embedded;"
        "os.read(0, 1); print(Embedded(Path(sys.argv[1])).url)"
    )
    logs = [tmp_path / f"log{number}" for number in range(4)]

    def create(log: Path) -> str:
        with log.open("wb") as output:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", code, str(tmp_path / "data")],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read, 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                ],
            )
            assert os.waitpid(pid, 0)[1] == 0
        return log.read_text()

    with ThreadPoolExecutor(len(logs)) as pool:
        created = [pool.submit(create, log) for log in logs]
        os.close(write)
        assert len({future.result() for future in created}) == 1
    os.close(read)


def test_the_password_is_not_on_the_command_line(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path)
    password = embedded.url.split(":")[2].split("@")[0]
    command = embedded.command()
    assert len(password) >= 32
    assert password not in " ".join(command)
    config = Path(command[-1])
    assert password in config.read_text()
    assert mode(config) == 0o600


def test_it_is_durable_and_closed_to_strangers(server: Embedded) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    with (
        redis.Redis(port=server.port) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.ping()


def test_a_folder_with_blanks_and_quotes_is_no_obstacle(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path / 'my "data" #1')
    with running(*embedded.command(), log=tmp_path / "log"):
        eventually(embedded.is_running)


def test_the_port_is_kept_while_it_is_free_or_ours(server: Embedded, tmp_path: Path) -> None:
    url = server.url
    assert not server.settle()
    idle = Embedded(tmp_path / "idle")
    idle_url = idle.url
    assert not idle.settle()
    assert (server.url, idle.url) == (url, idle_url)


def test_another_port_is_chosen_when_something_else_listens_on_it(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path)
    before, port = embedded.url, embedded.port
    with socket.create_server(("127.0.0.1", port)):
        assert not embedded.is_running()
        assert embedded.settle()
        assert embedded.port != port
        assert Embedded(tmp_path).url == before.replace(str(port), str(embedded.port))
        assert not embedded.settle()


def test_settings_name_another_redis_or_none(tmp_path: Path) -> None:
    given = "redis://127.0.0.1:1/3"
    assert redis_url(Settings(redis_url=given, data_dir=tmp_path)) == given
    assert not (tmp_path / "redis").exists()
    assert redis_url(Settings(data_dir=tmp_path)) == Embedded(tmp_path).url


def test_trouble_says_what_is_wrong(server: Embedded) -> None:
    assert trouble(server.url) is None
    assert "refused" in (trouble("redis://127.0.0.1:1/0") or "")
    assert "username-password" in (trouble(server.url.replace("redis://:", "redis://:x")) or "")


def test_a_damaged_address_is_told_and_not_replaced(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path)
    assert embedded.port
    for damage in ("", "[]", "{}"):
        embedded.address_file.write_text(damage)
        with pytest.raises(CoordinatorError, match=r"address\.json.*remove it"):
            embedded.command()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CoordinatorError, match=str(tmp_path)):
        Embedded(tmp_path).command()


def test_files_of_a_newer_redis_are_not_given_to_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = Embedded(tmp_path / "data")
    older = tmp_path / "redis-server"
    older.write_text("#!/bin/sh\necho Redis server v=6.2.99 sha=0\n")
    older.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert server_version(older) == (6, 2, 99)
    assert embedded.server() == older
    (embedded.folder / "appendonlydir").mkdir(parents=True)
    # The bundled server is older as well.
    with pytest.raises(CoordinatorError, match=r"no redis-server 7\.0 or newer.*6\.2\.99"):
        embedded.server()

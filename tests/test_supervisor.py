"""``coordinator up`` for real: everything starts, comes back, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from celery import Celery

from coordinator.application import coordinate
from coordinator.cli.installation import Installation
from coordinator.embedded import Embedded
from coordinator.errors import CoordinatorError, InvalidValue, Refused
from coordinator.machine.processes import Processes, socket_path, tail
from coordinator.machine.programs import Program, configuration, flower_login, plan, with_queues
from coordinator.machine.run_lock import RunLock
from coordinator.machine.supervisor import Supervisor, _descendants
from coordinator.settings import QueueSettings, Settings
from tests.helpers import ROOT, eventually, running

#: Celery takes seconds to load, more so beside other tests.
PATIENCE = 60


@dataclass
class Up:
    """A running ``coordinator up`` on a data folder."""

    process: subprocess.Popen[bytes]
    data: Path
    log: Path

    @property
    def processes(self) -> Processes:
        return Processes(self.data)

    def pid(self, name: str) -> int:
        return next(found.pid for found in self.processes.all() if found.name == name)

    def descendants(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if process.status() != psutil.STATUS_ZOMBIE
        ]

    def supervisord(self) -> int:
        return int((self.data / "supervisord.pid").read_text())

    def wait_for_work(self) -> None:
        """Wait until beat and the worker have played a game through Redis."""
        games = self.data / "games"
        size = games.stat().st_size if games.exists() else 0

        def played() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return games.exists() and games.stat().st_size > size

        eventually(played, timeout=PATIENCE)

    def hold(self) -> Path:
        """Give the worker a job that does not end; return when it runs."""
        started = self.data / "started"
        celery(self.data, "call", "hold", "--args", json.dumps([str(started)]))
        eventually(started.exists, timeout=PATIENCE)
        return started


@contextlib.contextmanager
def up(data: Path, *options: str) -> Iterator[Up]:
    log = data.parent / f"{data.name}.log"
    command = ("python", "-m", "coordinator", "-A", "tests.plain_app", "up", "--plain", *options)
    environment = {"COORDINATOR_DATA_DIR": str(data)}
    with running(*command, env=environment, log=log, grace=20) as process:
        yield Up(process, data, log)


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "COORDINATOR_DATA_DIR": str(data)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def celery(data: Path, *arguments: str) -> str:
    done = command(data, "celery", "-A", "tests.plain_app", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gone(processes: list[psutil.Process], timeout: float = 30) -> None:
    eventually(
        lambda: [p for p in processes if p.is_running() and p.status() != "zombie"] == [],
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up") / "data") as found:
        found.wait_for_work()
        yield found


@pytest.mark.slow
def test_up_starts_everything_and_tells_where(started: Up) -> None:
    names = [process.name for process in started.processes.all()]
    assert sorted(names) == ["beat", "flower", "redis", "worker-selfplay"]
    assert all(process.pid for process in started.processes.all())
    logs = {path.name for path in (started.data / "logs").iterdir()}
    assert {f"{name}.log" for name in names} <= logs
    told = started.log.read_text()
    for address in ("redis", "database", "flower", "logs"):
        assert f"\n{address:9}" in f"\n{told}"
    assert "user operator, password in" in told
    for private in ("flower.json", "redis/address.json", "supervisor.conf", "up.json"):
        assert (started.data / private).stat().st_mode & 0o077 == 0
    password = json.loads((started.data / "flower.json").read_text())["password"]
    lines = [" ".join(process.cmdline()) for process in started.descendants()]
    assert not any(password in line for line in lines)
    assert password not in told


@pytest.mark.slow
def test_commands_by_hand_find_the_same_redis_by_the_data_folder_alone(started: Up) -> None:
    assert "selfplay@" in celery(started.data, "inspect", "ping")


@pytest.mark.slow
def test_a_second_up_says_who_is_there(started: Up) -> None:
    before = {process.pid for process in started.descendants()}
    second = command(started.data, "coordinator", "-A", "tests.plain_app", "up")
    assert second.returncode == 1
    assert f"process {started.process.pid} of" in second.stderr
    assert f"kill {started.process.pid}" in second.stderr
    assert f":{Embedded(started.data).port}/0" in second.stderr
    assert before & {process.pid for process in started.descendants()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker-selfplay", "redis"])
def test_what_is_killed_comes_back(started: Up, name: str) -> None:
    before = started.pid(name)
    restarts = next(p.restarts for p in started.processes.all() if p.name == name)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: started.pid(name) not in (0, before), timeout=PATIENCE)
    started.wait_for_work()
    assert next(p.restarts for p in started.processes.all() if p.name == name) == restarts + 1
    eventually(lambda: f"{name} was started again" in started.log.read_text())


@pytest.mark.slow
def test_one_process_is_restarted_by_name(started: Up) -> None:
    before = {process.name: process.pid for process in started.processes.all()}
    done = command(started.data, "coordinator", "-A", "tests.plain_app", "restart", "beat")
    assert done.returncode == 0, done.stderr
    after = {process.name: process.pid for process in started.processes.all()}
    assert [name for name in before if before[name] != after[name]] == ["beat"]
    assert after["beat"]


@pytest.mark.slow
def test_names_of_processes_have_short_forms(started: Up) -> None:
    assert started.processes.find("worker") == ["worker-selfplay"]
    assert started.processes.find("selfplay") == ["worker-selfplay"]
    assert started.processes.find("flower") == ["flower"]
    with pytest.raises(InvalidValue, match="did you mean 'beat'"):
        started.processes.find("baet")


@pytest.mark.slow
def test_check_sees_the_running_installation(started: Up) -> None:
    done = command(started.data, "coordinator", "-A", "tests.plain_app", "check", "--json")
    answer = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert (done.returncode, answer["ok"]) == (0, True), done.stdout
    assert found["Redis"]["state"] == found["broker"]["state"] == "ok"
    assert "selfplay@" in found["workers"]["found"]


@pytest.mark.slow
def test_sigterm_stops_everything_and_the_next_run_continues(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--no-flower") as first:
        first.wait_for_work()
        url = Embedded(first.data).url
        everything = first.descendants()
        first.process.terminate()
        assert first.process.wait(PATIENCE) == 0
        gone(everything, timeout=1)
        assert "continue with: coordinator -A tests.plain_app up" in first.log.read_text()
    with up(tmp_path / "data", "--no-flower") as second:
        second.wait_for_work()
        assert Embedded(second.data).url == url
        # Everything at once, as a power cut: stale sockets, locks and pid files stay.
        everything = [psutil.Process(second.process.pid), *second.descendants()]
        for process in everything:
            process.suspend()
        for process in everything:
            process.kill()
        gone(everything[1:])
    with up(tmp_path / "data", "--no-flower") as third:
        third.wait_for_work()
        assert Embedded(third.data).url == url


@pytest.mark.slow
def test_the_second_signal_does_not_wait_for_jobs(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--no-flower") as found:
        found.hold()
        everything = found.descendants()
        assert any(process.name() == "sleep" for process in everything)
        found.process.terminate()
        eventually(lambda: "stopping" in found.log.read_text())
        found.process.terminate()
        # A worker that is waited for takes ten seconds.
        assert found.process.wait(8) == 0
        gone(everything, timeout=1)


@pytest.mark.slow
def test_nothing_outlives_a_killed_up_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--no-flower") as first:
        first.hold()
        everything = first.descendants()
        first.process.kill()
        with up(tmp_path / "data", "--no-flower") as second:
            eventually(lambda: "waiting for an earlier run" in second.log.read_text())
            second.wait_for_work()
            gone(everything, timeout=1)


@pytest.mark.slow
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--no-flower") as found:
        found.hold()
        everything = found.descendants()
        os.kill(found.supervisord(), signal.SIGKILL)
        assert found.process.wait(PATIENCE) == 1
        gone(everything, timeout=1)
        assert "ended unexpectedly" in found.log.read_text()


@pytest.mark.slow
def test_up_ends_by_itself_at_a_generation(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--no-flower", "--until-generation", "2") as found:
        eventually(lambda: found.process.poll() is not None, timeout=PATIENCE)
        assert found.process.returncode == 0, found.log.read_text()
        told = found.log.read_text()
    assert "chess reached generation" in told
    summary = told[told.rindex("Elo per generation") :]
    assert "chess" in summary


def test_a_redis_that_cannot_start_is_told_with_its_log(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with Supervisor(settings, "tests.plain_app", flower=False) as supervisor:
        supervisor.prepare()
        log = tmp_path / "logs" / "redis.log"
        with (
            socket.create_server(("127.0.0.1", Embedded(tmp_path).port)),
            pytest.raises(Refused, match="stopped before"),
        ):
            supervisor.start(canceled=lambda: "in use" in tail(log))
    assert _descendants(socket_path(tmp_path)) == []


def test_the_port_moves_when_it_is_taken_before_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", Embedded(tmp_path).port)):
        with Supervisor(Settings(data_dir=tmp_path), "tests.plain_app") as supervisor:
            assert supervisor.prepare()
        with Supervisor(Settings(data_dir=tmp_path), "tests.plain_app") as supervisor:
            assert not supervisor.prepare()


def test_a_data_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with (
        Supervisor(Settings(data_dir=tmp_path / "data"), "tests.plain_app") as supervisor,
        pytest.raises(CoordinatorError, match="data cannot be used"),
    ):
        supervisor.prepare()


def test_the_run_lock_waits_for_what_an_earlier_run_left(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire([], wait=0)
    with pytest.raises(Refused, match="runs on"):
        second.acquire([], wait=0)
    kept = os.dup(first.supervisor or -1)
    first.release()
    waited = []
    with pytest.raises(Refused, match="have not ended"):
        second.acquire([], wait=0, waiting=lambda: waited.append(1))
    assert waited == [1]
    os.close(kept)
    second.acquire([tmp_path / "redis" / "server.lock"], wait=0)
    second.release()


def test_without_up_there_is_nothing_to_steer(tmp_path: Path) -> None:
    assert not Processes(tmp_path).running()
    with pytest.raises(Refused, match="does not run"):
        Processes(tmp_path).find("beat")


def test_queues_without_slots_have_no_worker_and_odd_names_are_no_obstacle(tmp_path: Path) -> None:
    queues = {"a:b/c%": QueueSettings(workers=2), "idle": QueueSettings(workers=0)}
    settings = Settings(data_dir=tmp_path, queues=queues, redis_url="redis://127.0.0.1:1")
    worker, beat = plan(settings, "tasks", tmp_path, None)
    assert beat.name == "beat"
    assert "-Q a:b/c% -n" in " ".join(worker.command)
    assert worker.name.replace("-", "").replace("_", "").isalnum()
    assert worker.command[worker.command.index("-c") + 1] == "2"
    assert "a:b/c%%" in configuration([worker], tmp_path, tmp_path / "sock")


def test_queues_that_only_the_app_declares_are_worked_off(tmp_path: Path) -> None:
    """An app that was coordinated in two lines has Celery's default queue alone: nobody would run its jobs."""
    queues = {"idle": QueueSettings(workers=0), "work": QueueSettings(workers=2)}
    settings = Settings(data_dir=tmp_path, queues=queues, redis_url="redis://127.0.0.1:1")
    declared = {"celery", "idle", "work"}
    *workers, _ = plan(with_queues(settings, declared), "shop", tmp_path, None)
    slots = {one.command[one.command.index("-Q") + 1]: one.command for one in workers}
    assert {name: line[line.index("-c") + 1] for name, line in slots.items()} == {
        "work": "2",
        "celery": "1",
    }


def test_a_path_that_a_configuration_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorError, match="choose another folder"):
        configuration([Program("x", ("true",))], tmp_path / "my #1", tmp_path / "sock")


def test_the_socket_of_a_long_path_moves_to_a_private_folder(tmp_path: Path) -> None:
    assert socket_path(Path("/short")) == Path("/short/supervisor.sock")
    long = socket_path(tmp_path / ("x" * 90))
    assert len(str(long)) < 90
    assert long.parent.stat().st_mode & 0o077 == 0
    assert long != socket_path(tmp_path / ("y" * 90))


def test_flowers_port_is_free_and_its_password_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    login = flower_login(tmp_path)
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 5555)):
        assert flower_login(tmp_path).port != 5555
    assert flower_login(tmp_path).credentials == login.credentials
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "me:mine")
    assert flower_login(tmp_path).credentials is None


def test_an_app_that_has_a_broker_is_run_without_a_redis_of_its_own(tmp_path: Path) -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.coordinator_data_dir = str(tmp_path)
    coordinate(app)
    settings = Installation("shop", app).settings
    assert (settings.redis_url, settings.embedded) == ("redis://127.0.0.1:1/0", False)
    assert "redis" not in [one.name for one in plan(settings, "shop", tmp_path, None, None)]


@pytest.mark.parametrize(("configured", "seconds"), [(None, "6"), (2.5, "2.5"), (60.0, "6")])
def test_a_worker_that_is_told_to_stop_gives_back_before_it_is_killed(
    configured: float | None, seconds: str, tmp_path: Path
) -> None:
    queues = {"work": QueueSettings(workers=2)}
    url = "redis://127.0.0.1:1/0"
    settings = Settings(redis_url=url, queues=queues, shutdown_seconds=configured)
    programs = plan(settings, "shop", tmp_path, None)
    given = {
        one.environment.get("COORDINATOR_SHUTDOWN_SECONDS")
        for one in programs
        if "worker-" in one.name
    }
    assert given == {seconds}

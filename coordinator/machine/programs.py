"""What ``coordinator up`` runs: the command lines and the configuration of their supervisor."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordinator.embedded import Embedded
from coordinator.errors import CoordinatorError
from coordinator.flower import kept_login
from coordinator.machine import launch
from coordinator.settings import QueueSettings, Settings

#: Seconds a worker has to finish what it runs when it is told to stop, and after how many of them it gives back
#: what is not done, which counts no attempt: a day-long training must not keep ``up`` from ending. What does not
#: end then either is killed.
WORKER_STOP_SECONDS, GIVE_BACK_SECONDS = 10, 6
REDIS_STOP_SECONDS = 20

REDIS, WORKERS, BEAT, FLOWER, WEB = "redis", "worker-", "beat", "flower", "web"

#: Stopping goes group by group, the last first: Redis after everything that still needs it, and all
#: workers at once instead of one after the other.
FIRST_GROUP, SERVICES_GROUP = "store", "services"

WEB_PORT, FLOWER_PORT = 8770, 5555


@dataclass(frozen=True)
class Program:
    """One supervised process.

    Attributes:
        name: as it is shown and restarted.
        command: its argument vector.
        group: ``FIRST_GROUP`` or ``SERVICES_GROUP``.
        stop_seconds: seconds between the polite signal and the end of its process group.
        start_seconds: seconds it must live to count as started; shorter lives are retried with
            growing pauses.
        orphan_signal: what it gets when the supervisor itself dies.
        environment: added to the environment.
        lock: a file it holds while it lives, or None.
    """

    name: str
    command: tuple[str, ...]
    group: str = SERVICES_GROUP
    stop_seconds: int = WORKER_STOP_SECONDS
    # Celery with Flower beside it takes seconds to load on a busy machine: what fails while it loads
    # would otherwise count as started, and be started again without a pause.
    start_seconds: int = 15
    orphan_signal: str = "SIGTERM"
    environment: Mapping[str, str] = field(default_factory=dict)
    lock: Path | None = None


@dataclass(frozen=True)
class FlowerLogin:
    """Where Flower listens and who may enter.

    Attributes:
        port: TCP port on loopback.
        credentials: ``user:password``, or None when the caller's FLOWER_BASIC_AUTH rules.
        place: where to find the login, for people.
    """

    port: int
    credentials: str | None
    place: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def flower_login(data_dir: Path) -> FlowerLogin:
    """Return Flower's address and login; the password is chosen once for a data folder.

    Raises:
        CoordinatorError: the password cannot be read or kept.
    """
    for name in ("FLOWER_BASIC_AUTH", "FLOWER_BASIC_AUTH_FILE"):
        if os.environ.get(name):
            return FlowerLogin(_flower_port(), None, f"login from {name}")
    user, password, file = kept_login(data_dir)
    return FlowerLogin(_flower_port(), f"{user}:{password}", f"user {user}, password in {file}")


def has_web() -> bool:
    """Whether the packages of the HTTP API and the console are installed."""
    needed = ("fastapi", "uvicorn", "argon2", "jinja2")
    return all(importlib.util.find_spec(name) for name in needed)


def web_port() -> int:
    """Return the HTTP API's port: the usual one, or else a free one.

    Raises:
        CoordinatorError: there is none.
    """
    return _free_port(WEB_PORT, "the HTTP API", "--no-web")


def with_queues(settings: Settings, declared: Collection[str]) -> Settings:
    """Return the settings with the queues that an app declares: those without options are worked off as well.

    Args:
        settings: the settings of this installation.
        declared: the app's managed queues; one that declares none has Celery's default queue.
    """
    own = {name: QueueSettings() for name in sorted(declared) if name not in settings.queues}
    return replace(settings, queues={**settings.queues, **own})


def plan(
    settings: Settings,
    app: str,
    data_dir: Path,
    flower: FlowerLogin | None,
    web: int | None = None,
) -> list[Program]:
    """Return the programs in the order in which they are started.

    Args:
        settings: the settings of this installation.
        app: the Celery app as ``celery -A`` takes it.
        data_dir: the data folder, absolute.
        flower: Flower's address, or None to leave it out.
        web: the port of the HTTP API, or None to leave it out.

    Raises:
        CoordinatorError: no usable redis-server.
    """
    programs = []
    if settings.embedded:
        embedded = Embedded(data_dir)
        programs.append(
            Program(
                REDIS,
                tuple(embedded.command()),
                group=FIRST_GROUP,
                stop_seconds=REDIS_STOP_SECONDS,
                start_seconds=1,
                # Two servers on one folder would write over each other's append-only file.
                lock=embedded.lock_file,
            )
        )
    celery = (sys.executable, "-m", "celery", "-A", app)
    for queue, options in settings.queues.items():
        if options.workers:
            programs.append(_worker(celery, queue, options.workers, settings.shutdown_seconds))
    schedule = str(data_dir / "beat-schedule")
    programs.append(Program(BEAT, (*celery, "beat", "-s", schedule, "--pidfile=", "-l", "INFO")))
    if flower:
        # By environment: everybody on the machine can read command lines.
        login = {"FLOWER_BASIC_AUTH": flower.credentials} if flower.credentials else {}
        if web and settings.console_url is None:
            login["COORDINATOR_CONSOLE_URL"] = f"http://127.0.0.1:{web}"
        address = ("--address=127.0.0.1", f"--port={flower.port}")
        programs.append(Program(FLOWER, (*celery, "flower", *address), environment=login))
    if web:
        command = (sys.executable, "-m", "coordinator", "-A", app, "web", "--port", str(web))
        # The console links to the Flower of this run, unless it is told of another.
        linked = flower if settings.flower_url is None else None
        known = {"COORDINATOR_FLOWER_URL": linked.url} if linked else {}
        programs.append(Program(WEB, command, environment=known))
    return programs


def _worker(
    celery: tuple[str, ...], queue: str, slots: int, shutdown_seconds: float | None
) -> Program:
    name = _program_name(queue)
    seconds = GIVE_BACK_SECONDS if shutdown_seconds is None else shutdown_seconds
    options = ("-Q", queue, "-n", f"{name}@%h", "-c", str(slots))
    # Gossip and mingle talk to every other worker at each start and reconnect, for nothing we use.
    quiet = ("--without-gossip", "--without-mingle", "-E", "-l", "INFO")
    # Orphaned, it is told to stop cold: nobody is left to end a worker that waits for a day-long
    # job.
    return Program(
        f"{WORKERS}{name}",
        (*celery, "worker", *options, *quiet),
        orphan_signal="SIGQUIT",
        environment={"COORDINATOR_SHUTDOWN_SECONDS": f"{min(seconds, GIVE_BACK_SECONDS):g}"},
    )


def _program_name(queue: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", queue)
    if name == queue:
        return name
    return f"{name}-{hashlib.blake2b(queue.encode(), digest_size=3).hexdigest()}"


def configuration(programs: Sequence[Program], data_dir: Path, socket_path: Path) -> str:
    """Return the text of supervisord's configuration file.

    Args:
        programs: what to run.
        data_dir: the data folder, absolute.
        socket_path: the Unix socket on which supervisord answers.

    Raises:
        CoordinatorError: a path that such a file cannot hold.
    """
    logs = data_dir / "logs"
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": socket_path, "chmod": "0700"},
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "pidfile": data_dir / "supervisord.pid",
            "logfile": logs / "supervisord.log",
            "logfile_maxbytes": "5MB",
            "logfile_backups": 2,
            "nocleanup": "true",
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for program in programs:
        sections[f"program:{program.name}"] = {
            "command": shlex.join(_launched(program, data_dir)),
            "directory": Path.cwd(),
            "environment": ",".join(
                f'{key}="{value}"' for key, value in program.environment.items()
            ),
            # Started by us, when Redis answers.
            "autostart": "false",
            "autorestart": "true",
            "startsecs": program.start_seconds,
            # Never given up: the pauses grow by a second each, and what is broken may be mended
            # meanwhile.
            "startretries": 1_000_000,
            # The polite signal goes to the worker alone: sent to its children too, it would end
            # their jobs.
            "stopsignal": "TERM",
            "stopasgroup": "false",
            "stopwaitsecs": program.stop_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": logs / f"{program.name}.log",
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 3,
        }
    for priority, group in enumerate((FIRST_GROUP, SERVICES_GROUP)):
        names = [program.name for program in programs if program.group == group]
        if names:
            sections[f"group:{group}"] = {"programs": ",".join(names), "priority": priority}
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key}={_escaped(str(value))}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def starts_file(data_dir: Path, name: str) -> Path:
    """Return the file whose size is the number of starts of a program in this run."""
    return data_dir / "run" / f"{name}.starts"


def _launched(program: Program, data_dir: Path) -> list[str]:
    command = [sys.executable, "-I", "-S", launch.__file__, "--signal", program.orphan_signal]
    command += ["--starts", str(starts_file(data_dir, program.name))]
    if program.lock:
        command += ["--lock", str(program.lock)]
    return [*command, "--", *program.command]


def _escaped(value: str) -> str:
    if re.search(r"\s[;#]|[\r\n]", value):
        raise CoordinatorError(
            f"{value!r}: a line break, or ; or # after a space, cannot be written to a supervisor "
            "configuration: choose another folder (COORDINATOR_DATA_DIR)"
        )
    return value.replace("%", "%%")


def _flower_port() -> int:
    return _free_port(FLOWER_PORT, "Flower", "--no-flower")


def _free_port(usual: int, what: str, option: str) -> int:
    for port in (usual, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CoordinatorError(f"no free port on 127.0.0.1 for {what}: start with {option}")

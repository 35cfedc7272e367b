"""The compose file: its form, and each service's command line, run without Docker on a real Redis and PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml

from tests.helpers import (
    ROOT,
    eventually,
    free_port,
    program,
    redis_executable,
    running,
    system_redis,
)

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: one for name, one in SERVICES.items() if "build" in one}

SECRETS = {
    "REDIS_PASSWORD": "r3dis",
    "POSTGRES_PASSWORD": "p0stgres",
    "FLOWER_BASIC_AUTH": "ann:fl0wer",
    "GRAFANA_PASSWORD": "gr4fana",
}

#: What each service says in its log when it does its work; others are asked over HTTP.
READY = {
    "beat": "beat: Starting",
    **dict.fromkeys(("selfplay", "training", "evaluation", "maintenance"), " ready."),
}


def filled(text: str) -> str:
    """Return a text of the file as compose would: variables from .env and their defaults, and ``$$``."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[3]
        assert name in SECRETS or default is not None, name
        return SECRETS.get(name, default or "")

    return re.sub(r"\$\{(\w+)(:-|:\?)?([^}]*)\}", value, text).replace("$$", "$")


def test_compose_takes_it() -> None:
    compose = program("docker-compose", package="docker-compose", required="REQUIRE_DEPLOYMENT")
    done = subprocess.run(
        [compose, "-f", ROOT / "docker-compose.yml", "config", "--quiet"],
        env={"PATH": os.environ["PATH"], **SECRETS},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_the_passwords_nothing_starts() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?" in text
        assert re.search(rf"^{name}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_restarted_limited_and_not_open_to_the_world(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    if name in OWN:
        assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    # The database's image begins as root and gives its folder to the server's user.
    assert ("cap_drop" in service) == (name != "postgres")
    assert service.get("cap_drop", ["ALL"]) == ["ALL"]
    if name not in ("migrate", "beat"):
        assert "healthcheck" in service
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", [name for name in READY if name != "beat"])
def test_a_stopped_worker_gives_its_jobs_back_before_it_is_killed(name: str) -> None:
    service = SERVICES[name]
    assert service["stop_grace_period"] == "2m"
    assert 30 <= int(service["environment"]["COORDINATOR_SHUTDOWN_SECONDS"]) <= 110


def test_only_redis_and_the_database_are_on_the_inner_network_alone() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert {name for name, one in SERVICES.items() if one["networks"] == ["inside"]} == {
        "redis",
        "postgres",
    }


def test_the_image_is_no_roots_and_has_what_the_services_need() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER [1-9]\d+$", text, re.MULTILINE)
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2, (
        "build tools stay in the first stage"
    )
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for words in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored, f"{source} would not reach the build"
    assert "celery" in text.rpartition("ENTRYPOINT")[2]


def test_no_command_line_has_a_password() -> None:
    (here,) = re.findall(r"<<(\w+)\n(.*?)\n\1", SERVICES["redis"]["command"][-1], re.DOTALL)
    assert "$$REDIS_PASSWORD" in here[1], "read from its input"
    for name, service in SERVICES.items():
        words = [*service.get("entrypoint", ()), *service.get("command", ())]
        words += service.get("healthcheck", {}).get("test", ())
        told = " ".join(words).replace(here[1], "")
        assert "PASSWORD" not in told, name
        assert "AUTH" not in told, name


class Host:
    """What the containers would find: a Redis as the file starts it, a database, folders."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.port = folder, free_port()
        self.password = SECRETS["REDIS_PASSWORD"]
        self.database = database
        for name in ("data", "secrets"):
            (folder / name).mkdir()

    def local(self, text: str) -> str:
        text = filled(text).replace("@redis:6379", f"@127.0.0.1:{self.port}")
        text = re.sub(r"postgresql\+psycopg://\S+", self.database, text)
        return re.sub(r"(?<![\w/.])/(data|secrets)\b", rf"{self.folder}/\1", text)

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        given = {name: self.local(str(one)) for name, one in service["environment"].items()}
        # The programs of the image are those of this virtual environment.
        path = f"{ROOT / '.venv' / 'bin'}:{Path(shutil.which('celery') or '/').parent}:{os.environ['PATH']}"
        return {
            **given,
            "COORDINATOR_DATA_DIR": str(self.folder / "data"),
            "PATH": path,
            "HOSTNAME": os.uname().nodename,
        }

    def command(self, service: dict[str, Any]) -> list[str]:
        entry = service.get("entrypoint") or ["celery", "-A", "tasks"]
        return [self.local(word) for word in (*entry, *service["command"])]


@pytest.fixture
def host(tmp_path: Path, postgres_url: str) -> Iterator[Host]:
    own = Host(tmp_path, postgres_url)
    server = system_redis() or redis_executable()
    folder, log = tmp_path / "redis", tmp_path / "redis.log"
    folder.mkdir()
    *shell, text = SERVICES["redis"]["command"]
    text = filled(text).replace("/data", str(folder))
    text = text.replace("redis-server -", f"{server} - --port {own.port} --bind 127.0.0.1")
    with running(*shell, text, env={"REDIS_PASSWORD": own.password}, cwd=folder, log=log, grace=0):
        eventually(lambda: "Ready to accept" in log.read_text(), timeout=30)
        yield own


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_every_service_does_its_work_without_docker(host: Host) -> None:
    migrate = SERVICES["migrate"]
    for _ in range(2):
        done = subprocess.run(
            host.command(migrate),
            env=host.environment(migrate),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    token = (host.folder / "secrets" / "metrics_token").read_text().strip()
    assert re.fullmatch(r"coordinator_\w+_\S+", token), "once, and nothing but the token"
    ports = {"web": ("8770", str(free_port())), "flower": ("5555", str(free_port()))}
    with ExitStack() as stack:
        logs = {}
        for name in sorted(set(OWN) - {"migrate"}):
            command = host.command(OWN[name])
            if name in ports:
                command = [
                    word.replace(*ports[name]).replace("0.0.0.0", "127.0.0.1") for word in command
                ]
            logs[name] = host.folder / f"{name}.log"
            stack.enter_context(
                running(*command, env=host.environment(OWN[name]), log=logs[name], grace=10)
            )
        eventually(
            lambda: all(word in logs[name].read_text() for name, word in READY.items()), timeout=240
        )

        def get(service: str, path: str, **options: Any) -> int:
            try:
                return httpx2.get(
                    f"http://127.0.0.1:{ports[service][1]}{path}", **options
                ).status_code
            except httpx2.TransportError:
                return 0

        eventually(lambda: get("web", "/live") == 200, timeout=120, interval=0.5)
        eventually(lambda: get("flower", "/healthcheck") == 200, timeout=120, interval=0.5)
        assert get("flower", "/tasks") == 401
        assert get("flower", "/tasks", auth=("ann", "fl0wer")) == 200
        headers = {"Authorization": f"Bearer {token}"}
        assert get("web", "/metrics") == 401
        assert get("web", "/metrics", headers=headers, timeout=30) == 200

        def works() -> bool:
            with psycopg.connect(host.database.replace("+psycopg", "")) as connection:
                row = connection.execute(
                    "SELECT count(*) FROM coordinator_jobs WHERE state = 'completed'"
                ).fetchone()
            return row is not None and row[0] > 0

        eventually(works, timeout=240, interval=1)
        for name in READY:
            if name == "beat":
                continue
            check = host.local(SERVICES[name]["healthcheck"]["test"][1])
            done = subprocess.run(
                ["sh", "-c", check],
                env=host.environment(OWN[name]),
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    for name, log in logs.items():
        assert "Traceback" not in log.read_text(), f"{name}: {log.read_text()[-3000:]}"

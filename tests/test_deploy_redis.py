"""Redis as it is deployed: a user with least rights, TLS, and one server for two installations."""

from __future__ import annotations

import hashlib
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from celery import group

from coordinator.errors import InvalidSetting
from coordinator.observing.marks import Marks
from coordinator.settings import load
from tests import celery_app
from tests.helpers import (
    ROOT,
    absent,
    eventually,
    free_port,
    program,
    redis_executable,
    running,
    system_redis,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

PASSWORD = "t0psecret"


@contextmanager
def server(folder: Path, *options: str, url: str, executable: str | None = None) -> Iterator[None]:
    command = [executable or redis_executable(), "--bind", "127.0.0.1", "--save", "", *options]
    log = folder / "redis.log"
    with running(*command, cwd=folder, log=log, grace=0) as process:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                with redis.Redis.from_url(url) as client:
                    return client.ping() is True
            except redis.ConnectionError:
                return False

        eventually(answers, timeout=30)
        yield


def smoke(site: Installation) -> None:
    """What an installation does all day: run, wait, explain, delay, retry, cancel, pause, results, chords, control."""
    with site.worker(concurrency=2) as worker:
        model, gate = site.model(), site.gate()
        first = site.task("play").apply_async([["wait", gate]], {"model": model})
        site.starts(first)
        second = site.task("play").apply_async([["give", 2]], {"model": model})
        assert site.work_queue.why(second.id).blocker == first.id
        third = site.task("play").apply_async([], {"model": model}, countdown=3600)
        site.work_queue.cancel_job(third.id, by="test")
        site.ends(third, "REVOKED")
        site.open(gate)
        assert site.get(second) == 2
        assert site.get(site.play(["retry"], ["give", 3], model=model)) == 3
        site.work_queue.pause("work", by="test")
        held = site.play(["give", 4], model=model)
        assert site.state(held) == "waiting"
        site.work_queue.resume("work", by="test")
        assert site.get(held) == 4
        parts = [site.s(["give", number], model=f"{model}-{number}") for number in (1, 2)]
        results = group(parts, app=site.app).apply_async()
        assert results.get(timeout=60) == [1, 2]
        assert site.app.control.ping(timeout=5), worker.node
        eventually(lambda: site.work_queue.get_job(second.id).status == "COMPLETED", timeout=30)
        assert site.work_queue.verify_locks().left == ()


def of_the_system() -> str:
    """Return a Redis of the version that is deployed, with TLS, which the bundled one is built without."""
    message = "no redis-server of the system, with TLS (on Debian: apt-get install redis-server)"
    return system_redis() or absent(message, "REQUIRE_DEPLOYMENT")


def acl(folder: Path) -> Path:
    """Return the deployed file with the password put in, and the queue of these tests added."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    text = (ROOT / "deploy" / "redis" / "coordinator.acl").read_text()
    assert text.count("SHA256_OF_THE_PASSWORD") == 1
    text = text.replace("SHA256_OF_THE_PASSWORD", digest).replace("~selfplay*", "~work* ~selfplay*")
    path = folder / "users.acl"
    path.write_text(text)
    return path


# Redis 7 reads these rules with more kinds of rights than 6.2 has.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("find", [redis_executable, of_the_system], ids=["bundled", "system"])
def test_a_user_with_least_rights_is_enough(
    open_installation: type[Installation], tmp_path: Path, find: Callable[[], str]
) -> None:
    port = free_port()
    url = f"redis://coordinator:{PASSWORD}@127.0.0.1:{port}/0"
    with server(
        tmp_path, "--port", str(port), "--aclfile", str(acl(tmp_path)), url=url, executable=find()
    ):
        smoke(open_installation(url, tmp_path))
        marks = Marks(url, "coordinator:", patience=10)
        marks.refuse("task", "models: a name that cannot be one")
        assert marks.conflicts().refused
        marks.redis.close()
        with redis.Redis.from_url(url) as client:
            for words in (
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("KEYS", "*"),
                ("SHUTDOWN",),
                ("SCRIPT", "FLUSH"),
                ("ACL", "LIST"),
                ("REPLICAOF", "NO", "ONE"),
                ("SET", "others", "1"),
                ("GET", "others"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*words)
            logged = redis.Redis(port=port)
            with pytest.raises(redis.exceptions.AuthenticationError):
                logged.ping()


def certificates(folder: Path) -> dict[str, Path]:
    """Make an authority and a server's certificate of it."""
    openssl = program("openssl", package="openssl", required="REQUIRE_DEPLOYMENT")
    found = {
        name: folder / name for name in ("ca.pem", "ca.key", "redis.pem", "redis.key", "redis.csr")
    }
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    common = ["-nodes", "-newkey", "rsa:2048"]
    for words in (
        [
            "req",
            "-x509",
            *common,
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=ca",
        ],
        ["req", *common, "-keyout", "redis.key", "-out", "redis.csr", "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", "redis.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", "redis.pem", "-days", "2", "-extfile", "names"),
        ],
    ):
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_redis_over_tls_is_enough(open_installation: type[Installation], tmp_path: Path) -> None:
    made, port = certificates(tmp_path), free_port()
    asked = f"ssl_cert_reqs=required&ssl_ca_certs={made['ca.pem']}"
    url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?{asked}"
    options = ["--port", "0", "--tls-port", str(port), "--requirepass", PASSWORD]
    options += ["--tls-cert-file", str(made["redis.pem"]), "--tls-key-file", str(made["redis.key"])]
    options += ["--tls-ca-cert-file", str(made["ca.pem"]), "--tls-auth-clients", "no"]
    with server(tmp_path, *options, url=url, executable=of_the_system()):
        smoke(open_installation(url, tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        f"sentinel://:{PASSWORD}@127.0.0.1:26379",
        f"sentinel://:{PASSWORD}@127.0.0.1:1;sentinel://:{PASSWORD}@127.0.0.1:2",
        f"redis://:{PASSWORD}@127.0.0.1:1/0;redis://:{PASSWORD}@127.0.0.1:2/0",
    ],
)
def test_urls_of_several_addresses_are_refused_with_the_way_out(tmp_path: Path, url: str) -> None:
    said = "one address that follows the master: HAProxy .*deploy/redis/haproxy.cfg"
    with pytest.raises(InvalidSetting, match=f"coordinator_redis_url: .*{said}") as setting:
        load({"coordinator_redis_url": url})
    app = celery_app.create(url, tmp_path, code=False)
    with pytest.raises(InvalidSetting, match=f"broker_url: .*{said}") as broker:
        app.send_task("play")
    assert PASSWORD not in f"{setting.value}{broker.value}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_redis_serves_two_installations(
    open_installation: type[Installation], tmp_path: Path
) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    sites = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        conf = {"coordinator_key_prefix": f"{name}:", "task_default_queue": f"work-{name}"}
        sites.append(open_installation(url, folder, conf))
    with server(tmp_path, "--port", str(port), url=url):
        one, two = sites
        with one.worker(queues=("work-one",)), two.worker(queues=("work-two",)):
            assert one.get(one.play(["give", 1], model="m")) == 1
            assert two.get(two.play(["give", 2], model="m")) == 2
            gate = one.gate()
            busy = one.play(["wait", gate], model="m")
            one.starts(busy)
            assert two.get(two.play(["give", 3], model="m")) == 3, "another installation's model"
            assert {one.state(busy), two.state(busy)} == {"running", "unknown"}
            one.open(gate)
            one.ends(busy, "SUCCESS")
        with redis.Redis.from_url(url, decode_responses=True) as client:
            own = {key for key in client.scan_iter() if not key.startswith(("one:", "two:"))}
        assert not any(key.startswith("coordinator:") for key in own), own

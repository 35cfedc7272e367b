"""Several hosts, as network namespaces: three with a worker each, one of them cut off and healed.

Everything is inside the namespaces, Redis too: nothing of it can be reached from elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from kombu.utils.json import dumps

from tests import celery_app
from tests.helpers import absent, eventually, program, redis_executable, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

HOSTS = ("h1", "h2", "h3")
LEASE = 5


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr}")


class Net:
    """A switch, a hub with Redis, and hosts on it."""

    def __init__(self) -> None:
        self.name = f"ct{uuid.uuid4().hex[:6]}"
        self.hub = f"{self.name}-hub"
        self.spaces = [self.hub]

    def space(self, host: str) -> str:
        return f"{self.name}-{host}"

    def build(self) -> None:
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "switch", "type", "bridge")
        ip("-n", self.hub, "addr", "add", "10.99.0.1/24", "dev", "switch")
        ip("-n", self.hub, "link", "set", "switch", "up")
        for number, host in enumerate(HOSTS, 11):
            own = self.space(host)
            ip("netns", "add", own)
            self.spaces.append(own)
            peer = ("peer", "name", "eth0", "netns", own)
            ip("-n", self.hub, "link", "add", host, "type", "veth", *peer)
            ip("-n", self.hub, "link", "set", host, "master", "switch", "up")
            ip("-n", own, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
            ip("-n", own, "link", "set", "eth0", "up")
            ip("-n", own, "link", "set", "lo", "up")

    def plug(self, host: str, state: str) -> None:
        """Pull a host's cable (``down``), or put it in again (``up``)."""
        ip("-n", self.hub, "link", "set", host, state)

    def remove(self) -> None:
        for name in self.spaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def inside(self, space: str, *command: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", space, *command]


@pytest.fixture
def net() -> Iterator[Net]:
    program("ip", package="iproute2", required="REQUIRE_NAMESPACES")
    if os.geteuid() != 0:
        absent("only root makes network namespaces", "REQUIRE_NAMESPACES")
    own = Net()
    try:
        try:
            own.build()
        except RuntimeError as error:
            absent(f"no network namespaces here: {error}", "REQUIRE_NAMESPACES")
        yield own
    finally:
        own.remove()


def dead(pid: int) -> bool:
    """Whether a process does nothing any more; its worker, which is cut off, may be too busy to bury it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def worker(net: Net, host: str, site: Installation) -> Iterator[None]:
    log = site.folder / f"{host}.log"
    env = {
        celery_app.BROKER: "redis://10.99.0.1:6379/0",
        celery_app.FOLDER: str(site.folder),
        celery_app.SETTINGS: dumps(site.conf),
    }
    command = [sys.executable, "-m", "celery", "-A", "tests.celery_app", "worker"]
    command += ["-n", f"{host}@test", "-Q", "work", "-c", "1", "-l", "INFO"]
    command += ["--without-gossip", "--without-mingle"]
    with running(*net.inside(net.space(host), *command), env=env, log=log, grace=0):
        eventually(lambda: f"{host}@test ready." in log.read_text(), timeout=90)
        yield


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off_loses_its_job_before_another_gets_it_and_comes_back(
    net: Net, open_installation: type[Installation], tmp_path: Path
) -> None:
    socket = tmp_path / "redis.sock"
    options = ["--bind", "10.99.0.1", "--port", "6379", "--protected-mode", "no", "--save", ""]
    command = net.inside(net.hub, redis_executable(), *options, "--unixsocket", str(socket))
    conf = {"coordinator_lease_seconds": LEASE}
    site = open_installation(f"redis+socket://{socket}?virtual_host=0", tmp_path, conf)
    with ExitStack() as stack:
        stack.enter_context(running(*command, cwd=tmp_path, log=tmp_path / "redis.log", grace=0))
        eventually(socket.exists, timeout=30)
        for host in HOSTS:
            stack.enter_context(worker(net, host, site))

        def host_of(job: Any) -> str:
            return str((site.work_queue.ledger.job(job.id) or {}).get("worker", "")).partition("@")[
                0
            ]

        def started() -> dict[str, Any]:
            """Submit a job for each host, each of a model of its own; return them by host."""
            jobs = [site.play(["wait", f"gate-{site.model()}"], model=site.model()) for _ in HOSTS]
            for job in jobs:
                site.starts(job)
            found = {host_of(job): job for job in jobs}
            assert set(found) == set(HOSTS), "one slot each"
            return found

        first = started()
        lost, other = first["h1"], first["h2"]
        before = site.trace(lost, "start")[0]["pid"]
        net.plug("h1", "down")
        site.becomes(lost, "waiting")
        eventually(lambda: dead(before), timeout=30)
        site.work_queue.release_job(other.id, reason="a free slot", by="test")
        site.starts(lost, runs=2)
        assert host_of(lost) in ("h2", "h3")
        ended = [one for one in site.trace(lost) if one["pid"] == before and one["event"] == "end"]
        assert not ended, "its first run was ended where it was"
        live = {one.node.partition("@")[0] for one in site.work_queue.get_active_workers()}
        assert live == {"h2", "h3"}
        net.plug("h1", "up")
        eventually(
            lambda: (
                {one.node for one in site.work_queue.get_active_workers()}
                == {f"{host}@test" for host in HOSTS}
            ),
            timeout=60,
        )
        # The job that gave way runs on the healed host, and all three work again.
        eventually(
            lambda: {host_of(job) for job in (lost, other, first["h3"])} == set(HOSTS), timeout=60
        )
        for job in (lost, other, first["h3"]):
            site.work_queue.cancel_job(job.id, by="test")
        for job in (lost, other, first["h3"]):
            site.becomes(job, "canceled")
        assert site.work_queue.verify_locks().left == ()
        site.work_queue.ledger.pool.disconnect()

"""A Redis that Sentinel fails over, behind one address that follows the master: real servers, real sentinels."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator.errors import LedgerUnavailable
from tests.chaos.proxy import Proxy
from tests.helpers import eventually, free_port, redis_executable, running, system_redis

if TYPE_CHECKING:
    import subprocess

    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

MASTER = "coordinator"


class Group:
    """A master, a replica and three sentinels."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.servers: dict[int, subprocess.Popen[bytes]] = {}
        self.first, self.second = free_port(), free_port()
        self._serve(self.first)
        self._serve(self.second, "--replicaof", "127.0.0.1", str(self.first))
        self.sentinels = [self._watch() for _ in range(3)]
        eventually(self._in_step, timeout=30)

    def _run(self, port: int, *options: str, config: Path | None = None) -> None:
        command: list[str | Path] = [
            system_redis() or redis_executable(),
            *([config] if config else []),
        ]
        command += ["--port", str(port), "--bind", "127.0.0.1", *options]
        log = self.folder / f"{port}.log"
        process = running(*command, cwd=self.folder, log=log, grace=0)
        self.servers[port] = self.stack.enter_context(process)
        eventually(lambda: self._answers(port), timeout=30)

    def _serve(self, port: int, *options: str) -> None:
        folder = self.folder / str(port)
        folder.mkdir()
        self._run(
            port, "--dir", str(folder), "--save", "", "--repl-diskless-sync-delay", "0", *options
        )

    def _watch(self) -> int:
        port = free_port()
        config = self.folder / f"sentinel-{port}.conf"
        config.write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {self.first} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 1500\n"
            f"sentinel failover-timeout {MASTER} 10000\n"
        )
        self._run(port, "--sentinel", config=config)
        return port

    def ask(self, port: int) -> Any:
        never = Retry(NoBackoff(), 0)
        return redis.Redis(port=port, decode_responses=True, socket_timeout=2, retry=never)

    def _answers(self, port: int) -> bool:
        try:
            return bool(self.ask(port).ping())
        except redis.ConnectionError:
            return False

    def _in_step(self) -> bool:
        linked = self.ask(self.second).info("replication").get("master_link_status") == "up"
        known = [
            self.ask(port).sentinel_master(MASTER)["num-other-sentinels"] for port in self.sentinels
        ]
        return linked and known == [2, 2, 2]

    def master(self) -> int:
        """Return the port of the master that says so itself, as a proxy's check finds it out; 0 for none."""
        for port in (self.first, self.second):
            try:
                if self.ask(port).info("replication")["role"] == "master":
                    return port
            except (redis.ConnectionError, redis.TimeoutError):
                continue
        return 0


def follow(group: Group, proxy: Proxy, over: threading.Event) -> None:
    """Send everybody to the master, and away from one that is none any more, as HAProxy is configured to."""
    while not over.wait(0.3):
        port = group.master()
        if port and proxy.target[1] != port:
            proxy.target = ("127.0.0.1", port)
            proxy.cut()


def test_a_worker_outlives_a_master_that_becomes_a_replica_for_a_while(
    open_installation: type[Installation], redis_url: str, tmp_path: Path
) -> None:
    site = open_installation(redis_url, tmp_path)
    with ExitStack() as stack:
        stack.callback(site.redis.close)
        worker = stack.enter_context(site.worker(concurrency=1))
        assert site.get(site.play(["give", 1])) == 1
        site.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            # The fetch that was under way is broken off, then each new connection is refused its first write.
            eventually(lambda: worker.said("Connection to broker lost"), timeout=30)
            eventually(lambda: worker.said("Trying to reconnect"), timeout=30)
        finally:
            site.redis.execute_command("REPLICAOF", "NO", "ONE")
        assert site.get(site.play(["give", 2])) == 2
        assert psutil.pid_exists(worker.pid), "the same worker"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failover_loses_no_job_and_runs_no_two_of_one_model(
    open_installation: type[Installation], tmp_path: Path
) -> None:
    over = threading.Event()
    with ExitStack() as stack:
        group = Group(tmp_path, stack)
        proxy = stack.enter_context(Proxy(group.first))
        follower = threading.Thread(target=follow, args=(group, proxy, over), daemon=True)
        follower.start()
        folder = tmp_path / "site"
        folder.mkdir()
        site = open_installation(
            f"redis://127.0.0.1:{proxy.port}/0", folder, {"coordinator_lease_seconds": 8}
        )
        with site.worker(concurrency=2):
            model, gate = site.model(), site.gate()
            runs = site.play(["wait", gate], model=model)
            site.starts(runs)
            waits = [site.play(["give", number], model=model) for number in range(5)]
            eventually(lambda: site.work_queue.store.counts().get("waiting") == 5, timeout=30)

            def epoch() -> int:
                try:
                    return site.work_queue.ledger.epoch() or 0
                except LedgerUnavailable:
                    return 0

            before = epoch()
            group.servers[group.first].kill()
            eventually(lambda: group.master() == group.second, timeout=60)
            eventually(lambda: epoch() > before, timeout=60)
            late = site.play(["give", 9], model=model)
            site.open(gate)
            jobs = [*waits, late]
            eventually(lambda: {site.state(job) for job in jobs} == {"completed"}, timeout=120)
            assert [site.runs(job) for job in jobs] == [1] * 6
            site.becomes(runs, "completed")
            spans = sorted(
                (entry["at"], job.id)
                for job in (runs, *waits, late)
                for entry in site.trace(job)
                if entry["event"] in ("start", "end")
            )
            assert [job for _, job in spans][::2] == [job for _, job in spans][1::2], (
                "each run began and ended before the next one of its model began"
            )
        over.set()
        follower.join(10)
        site.work_queue.ledger.pool.disconnect()

"""A small installation of real processes: Redis, workers, a maintenance worker and a reaper."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Self

import psutil
import redis

from coordinator.ledger import Ledger
from coordinator.store import Store
from tests.chaos.traces import Blow, Counts, Run, Trace, count
from tests.helpers import ROOT, eventually, free_port, redis_executable, session_of


class Cluster:
    """Starts, kills and watches the processes of one drill.

    Args:
        folder: where everything is kept; empty.
        workers: names of the workers of the work queues.
        slots: prefork slots of each.
        lease: seconds.
        reaper: whether the reaper runs.
        environment: added to that of every process.
        clocks: worker to the seconds by which its clock is off.
        stepping: whether Redis gets a clock that ``step_redis`` can step.
        disk: size of a disk of its own for the database, as ``mount`` takes it, or "".
    """

    def __init__(
        self,
        folder: Path,
        workers: tuple[str, ...] = ("w1", "w2"),
        slots: int = 3,
        lease: float = 2.0,
        reaper: bool = True,
        environment: dict[str, str] | None = None,
        clocks: dict[str, int] | None = None,
        stepping: bool = False,
        disk: str = "",
    ) -> None:
        self.folder, self.workers, self.slots, self.lease = folder, workers, slots, lease
        self.reaper = reaper
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.clocks, self.stepping, self.disk = clocks or {}, stepping, disk
        self.database = folder / "disk" / "store.db"
        clean = {
            key: item for key, item in os.environ.items() if not key.startswith("COORDINATOR_")
        }
        self.environment = {
            **clean,
            "COORDINATOR_REDIS_URL": self.url,
            "COORDINATOR_DATABASE_URL": f"sqlite:///{self.database}",
            "COORDINATOR_DATA_DIR": str(folder),
            "COORDINATOR_LEASE_SECONDS": f"{lease:g}",
            "CHAOS_FOLDER": str(folder),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        #: Every process this cluster ever started: ended with it, with all of its session.
        self.started: list[subprocess.Popen[bytes]] = []
        self.blows: list[Blow] = []
        self.producers: list[subprocess.Popen[bytes]] = []
        self.ended: set[str] = set()
        self._trace = Trace(folder / "trace")
        self.ledger = Ledger(self.url, patience=2.0)
        self.store = Store(f"sqlite:///{self.database}")

    # -- start and end -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            # A cluster that did not come up is never left, so it ends what it started here.
            self.end()
            raise
        return self

    def _start_all(self) -> None:
        self.database.parent.mkdir(parents=True, exist_ok=True)
        if self.disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={self.disk}", "tmpfs"]
            subprocess.run([*mount, str(self.database.parent)], check=True)
        shutil.copyfile(_empty_database(), self.database)
        self.start_redis()
        for name in (*self.workers, "maintenance"):
            self.start_worker(name)
        if self.reaper:
            self.start_reaper()
        self.await_workers()

    def reset(self) -> None:
        """Make an idle, healthy cluster ready for the next repetition: nothing of the last one is counted.

        Raises:
            AssertionError: it is not idle, or a process is missing: another cluster is needed.
        """
        assert all(producer.poll() is not None for producer in self.producers)
        self.verify()
        self.await_workers()
        for name in ("trace", "accepted"):
            (self.folder / name).unlink(missing_ok=True)
        self._trace = Trace(self.folder / "trace")
        self.blows, self.producers, self.ended = [], [], set()

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill everything that was started, and what that has started."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        for process in self.started:
            for member in session_of(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
        for orphan in self.marked():
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        self.store.close()
        self.ledger.pool.disconnect()
        if os.path.ismount(self.database.parent):
            subprocess.run(["umount", str(self.database.parent)], check=True)

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, with more in its environment."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        self.started.append(process)
        return process

    def start_redis(self, name: str = "redis", port: int = 0, *options: str) -> None:
        """Start Redis with an append-only file; by default on the port of this cluster.

        Args:
            name: of the process, and of the folder of its files.
            port: another one, for another server.
            options: of the server.
        """
        data, port = self.folder / name, port or self.port
        data.mkdir(exist_ok=True)
        command = [redis_executable(), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--dir", str(data), "--save", "", "--maxmemory-policy", "noeviction"]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", *options]
        clock = {}
        if self.stepping:
            if not self._redis_clock.exists():
                self.step_redis(0)
            clock = faketime(FAKETIME_TIMESTAMP_FILE=str(self._redis_clock), FAKETIME_NO_CACHE="1")
        self.start(name, *command, **clock)
        with redis.Redis(port=port) as client:
            eventually(lambda: _answers(client), timeout=20)

    @property
    def _redis_clock(self) -> Path:
        return self.folder / "redis-clock"

    def step_redis(self, seconds: int) -> None:
        """Step the clock of Redis to so many seconds off the machine's."""
        # In one step: half a line would be another time.
        written = self._redis_clock.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n")
        written.replace(self._redis_clock)

    def start_worker(self, name: str) -> None:
        queues = "maintenance" if name == "maintenance" else "selfplay,training"
        slots = 1 if name == "maintenance" else self.slots
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.chaos.app",
            "worker",
            "-n",
            f"{name}@%h",
        ]
        command += [
            "-Q",
            queues,
            "-c",
            str(slots),
            "-l",
            "INFO",
            "--without-gossip",
            "--without-mingle",
        ]
        off = self.clocks.get(name, 0)
        clock = {"CHAOS_CLOCK": str(off), "PYTHONPATH": str(ROOT / "tests/chaos/clock")}
        self.start(name, *command, **(clock if off else {}))

    def start_reaper(self) -> None:
        self.start("reaper", sys.executable, "-m", "tests.chaos.reaping")

    def revive(self) -> None:
        """Start what has died again, as a supervisor does."""
        for name in (*self.workers, "maintenance"):
            if self.processes[name].poll() is not None:
                self.start_worker(name)

    def await_workers(self, names: tuple[str, ...] | None = None, timeout: float = 60) -> None:
        """Wait until these workers (all of them) have a lease."""
        eventually(lambda: self.present(names or (*self.workers, "maintenance")), timeout)

    def present(self, names: tuple[str, ...]) -> bool:
        """Whether these workers have a lease."""
        wanted = {self.processes[name].pid for name in names}
        return wanted <= {int(worker.get("pid", 0)) for worker in self.ledger.workers()}

    # -- load --------------------------------------------------------------------------------------

    def produce(self, jobs: int, seed: int, *options: str) -> subprocess.Popen[bytes]:
        """Start a producer of so many jobs."""
        command = [sys.executable, "-m", "tests.chaos.producer", "--jobs", str(jobs)]
        name = f"producer{len(self.producers)}"
        process = self.start(name, *command, "--seed", str(seed), *options)
        self.producers.append(process)
        return process

    def accepted(self) -> set[str]:
        """Return the ids of the jobs whose producer was told that they are accepted."""
        return self._noted("accepted")

    def tried(self) -> set[str]:
        return self._noted("try")

    def refused(self) -> int:
        """Return how often a producer was told that its job is not accepted now."""
        return sum(line.startswith("refused ") for line in self._notes())

    def _noted(self, kind: str) -> set[str]:
        return {line.split(" ")[1] for line in self._notes() if line.startswith(f"{kind} ")}

    def _notes(self) -> list[str]:
        path = self.folder / "accepted"
        return path.read_text().splitlines() if path.exists() else []

    def runs(self) -> list[Run]:
        return self._trace.runs()

    def completed(self) -> int:
        return len({run.job for run in self.runs() if run.ended is not None})

    def await_completed(self, number: int, timeout: float = 60) -> None:
        """Wait until so many jobs have completed."""
        eventually(lambda: self.completed() >= number, timeout, 0.05)

    def settle(self, timeout: float = 90) -> Counts:
        """Wait until everything accepted has ended and is recorded; count."""
        for producer in self.producers:
            producer.wait(timeout)

        def done() -> bool:
            counts = self.count()
            return counts.completed + len(self.ended & self.accepted()) >= counts.accepted

        with contextlib.suppress(AssertionError):
            # What is not done in time is counted as lost.
            eventually(done, timeout, 0.2)
        return self.count()

    def count(self) -> Counts:
        return count(self.runs(), self.accepted(), self.blows, self.ended)

    def verify(self) -> None:
        """Check that all processes live, and that ledger and store agree that everything is over.

        Raises:
            AssertionError: something died by itself, is still held, or not recorded.
        """
        alive = ("redis", "maintenance", *self.workers, *(("reaper",) if self.reaper else ()))
        dead = {name: code for name in alive if (code := self.processes[name].poll()) is not None}
        assert not dead, f"not running any more: {dead}"

        def idle() -> None:
            keys = [str(key) for key in self.ledger.redis.scan_iter("coordinator:holders:*")]
            assert not keys, f"still held: {keys}"
            left = self.store.unfinished(limit=10)
            assert not left, f"not recorded: {[(row.job.job_id, str(row.state)) for row in left]}"

        eventually(idle, 3 * self.lease + 15, 0.2)

    # -- blows -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def blow(self, kind: str) -> Iterator[None]:
        """Note what is done inside as a blow; see ``traces.Blow``."""
        start = time.monotonic()
        yield
        self.blows.append(Blow(kind, start, time.monotonic()))

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of the cluster, and reap it when it was killed."""
        process = self.processes[name]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()

    def children(self, name: str) -> list[psutil.Process]:
        """Return the pool processes of a worker."""
        found = []
        for child in psutil.Process(self.processes[name].pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                ours = {"coordinator.running.guard", "coordinator.recovery.errands"}
                if ours.isdisjoint(child.cmdline()):
                    found.append(child)
        return found

    def busy(self, name: str, left: float = 0.0) -> list[psutil.Process]:
        """Return the pool processes of a worker whose job, by the trace, runs on for so many seconds."""
        until = time.monotonic() + left
        running = {
            pid
            for run in self.runs()
            if run.ended is None and run.start + run.planned > until
            for pid in run.pids
        }
        return [child for child in self.children(name) if child.pid in running]

    def marked(self) -> list[psutil.Process]:
        """Return all living processes of this cluster, by their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("CHAOS_FOLDER") == str(self.folder):
                    found.append(process)
        return found

    def forget_redis(self) -> None:
        """Delete the files of a Redis that is down."""
        shutil.rmtree(self.folder / "redis")


#: What Debian's package faketime installs.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def faketime(**settings: str) -> dict[str, str]:
    """Return the environment of a process with a wrong clock; CLOCK_MONOTONIC stays as it is."""
    return {"LD_PRELOAD": str(FAKETIME or ""), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **settings}


@cache
def _empty_database() -> Path:
    """Return a database with all tables: making them takes longer than all else that a cluster begins with."""
    path = Path(tempfile.mkdtemp(prefix="chaos-database-")) / "store.db"
    store = Store(f"sqlite:///{path}")
    store.upgrade()
    with store.stating() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path


def _answers(client: redis.Redis) -> bool:
    try:
        return client.ping() is True
    except redis.RedisError:
        return False

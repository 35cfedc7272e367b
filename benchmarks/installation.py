"""A system that runs: a fresh Redis, its workers and one producer, ended with the block."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from benchmarks.batch import WARM_UP, Batch, Submitted
from benchmarks.postgres import PostgresServer
from benchmarks.processes import Cpu, LimitReached, Memory, Program, SystemFailed, ending, until
from benchmarks.servers import RedisServer, Server
from benchmarks.systems import System
from benchmarks.trace import RAN, Trace

#: Seconds for processes to come up; a busy machine imports Celery four times at once.
START = 60.0

#: Seconds between two looks at jobs that run; closer ones cost what they measure. Ends are told by the traces.
LOOK = 0.05

#: Leases long enough for workers that are frozen while their queue is filled, in seconds.
LONG_LEASE = 3600.0

PREFIX = "coordinator:"
_ACTIVE = ("waiting", "delayed", "dispatched", "running", "stopping")


class Installation:
    """One system with its own server, folder, workers and producer.

    Args:
        system: what to run.
        folder: an empty folder of its own.
        slots: one worker for each entry, with so many processes.
        lease: seconds a silent worker keeps its jobs, where the system knows leases.
        begin: whether the start of each run is traced as well, for runs that do not end.
        profile: folder for profiles of all processes, or None.

    Raises:
        SystemFailed: something cannot be started; the message shows its log.
    """

    def __init__(
        self,
        system: System,
        folder: Path,
        slots: Sequence[int] = (2,),
        lease: float = LONG_LEASE,
        begin: bool = False,
        profile: Path | None = None,
    ) -> None:
        self.system, self.folder, self.slots = system, folder, tuple(slots)
        self.lease, self.begin, self.profile = lease, begin, profile
        self.trace = Trace(folder / "trace")
        self.workers: list[Program] = []
        self.helpers: list[Program] = []
        self._stack = ExitStack()
        self._sent = self._completed = 0
        self._buffer = b""
        #: The greatest age of an event that the store did not have yet, in seconds, as seen while jobs ran.
        self.lag = 0.0

    # -- start and end -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        missing = self.system.missing()
        if missing:
            raise SystemFailed(f"{self.system.name} cannot be started: {missing}")
        ready = self.folder / "ready"
        ready.mkdir(parents=True)
        kind = PostgresServer if self.system.postgres else RedisServer
        self.server: Server = self._stack.enter_context(kind(self.folder / "server"))
        programs: list[Program] = []
        # Only a process that is asked to end leaves a profile.
        self._stack.enter_context(ending(programs, lambda: 10.0 if self.profile else 0.0))
        environment = self._environment()

        def start(name: str, command: Sequence[str], pipes: bool = False) -> Program:
            program = Program(name, command, environment, self.folder, pipes)
            programs.append(program)
            return program

        for name, command in self.system.helpers().items():
            self.helpers.append(start(name, command))
        for number, slots in enumerate(self.slots, 1):
            name = f"worker{number}"
            self.workers.append(start(name, self.system.worker(name, slots)))
        self.producer = start("producer", self.system.producer(), pipes=True)
        self._stack.callback(self._end_producer)
        expected = len(self.workers) + len(self.helpers)

        def up() -> bool:
            self.check()
            return len(list(ready.iterdir())) >= expected

        try:
            until(up, START, "all workers are ready", 0.05)
            self._answer(START)
        except LimitReached as error:
            raise SystemFailed(f"{self.system.name} cannot be started: {error}") from error

    def _environment(self) -> dict[str, str]:
        environment = {
            **self.system.environment,
            "BENCH_BROKER": self.server.url,
            "BENCH_FOLDER": str(self.folder),
            "BENCH_LEASE": f"{self.lease:g}",
            "BENCH_DATABASE": self.store_url,
            "BENCH_BEGIN": "1" if self.begin else "0",
        }
        if self.profile:
            self.profile.mkdir(parents=True, exist_ok=True)
            environment["BENCH_PROFILE"] = str(self.profile)
        return environment

    def _end_producer(self) -> None:
        if self.profile and self.producer.process.poll() is None:
            self.producer.stdin.close()
            self.producer.process.wait(10)

    def check(self) -> None:
        """Raise SystemFailed if a process has ended that should live."""
        for program in (self.server.program, *self.helpers, *self.workers, self.producer):
            program.check()

    # -- jobs ----------------------------------------------------------------------------------------

    def submit(self, batch: Batch, limit: float = 600) -> Submitted:
        """Let the producer submit a batch; returns what it measured when all are submitted.

        Raises:
            LimitReached: it was not through after ``limit`` seconds.
        """
        self.begin_submit(batch)
        return self.end_submit(limit)

    def begin_submit(self, batch: Batch) -> None:
        """Let the producer submit a batch, and return at once."""
        self._sent += batch.count
        self.producer.stdin.write(json.dumps(asdict(batch)).encode() + b"\n")
        self.producer.stdin.flush()

    def end_submit(self, limit: float) -> Submitted:
        """Return what the producer measured, once it is through."""
        return Submitted(**self._answer(limit))

    def _answer(self, limit: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit
        stdout = self.producer.stdout.fileno()
        answers = select.poll()
        answers.register(stdout, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LimitReached(f"the producer of {self.system.name}: not within {limit:g} s")
            if answers.poll(min(left, 1.0) * 1000):
                chunk = os.read(stdout, 65536)
                self._buffer += chunk
                if not chunk:
                    until(lambda: self.producer.process.poll() is not None, 5, "its end")
            self.producer.check()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def warm_up(self) -> None:
        """Run jobs in every process until all have seen some, and forget their traces."""
        first = WARM_UP
        children = sum(self.slots)
        for _ in range(10):
            batch = Batch(20 * children, first=first, models=20 * children, prefix="warm", ms=2)
            first += batch.count
            self.submit(batch, START)
            self.wait_ran(self._sent, START)
            if len({run.pid for run in self.trace.read()}) >= children:
                break
        self.wait_recorded(START)
        self.lag = 0.0
        self.trace.clear()
        self._sent = 0
        self._completed = self.completed() if self.system.recorded else 0

    def wait_ran(self, count: int, limit: float) -> None:
        """Wait until so many runs have ended since the warm-up.

        Raises:
            LimitReached: the message says how many have.
            SystemFailed: a process died.
        """

        def enough() -> bool:
            self.check()
            self._watch_lag()
            return self.trace.count(RAN) >= count

        try:
            until(enough, limit, "jobs", LOOK)
        except LimitReached:
            ran = self.trace.count(RAN)
            raise LimitReached(f"{ran:,} of {count:,} jobs ran within {limit:g} s") from None

    def wait_recorded(self, limit: float, idle: bool = True) -> int:
        """Wait until the store has everything that happened; returns when (ns, CLOCK_MONOTONIC).

        Args:
            limit: seconds to wait at most.
            idle: whether no job may be left unfinished either.
        """
        if self.system.recorded:
            until(lambda: self._is_recorded(idle), limit, "everything is in the audit log")
        return time.monotonic_ns()

    def _watch_lag(self) -> None:
        if not self.system.recorded:
            return
        pipe = self._pipeline()
        pipe.xrange(f"{PREFIX}events", count=1)
        pipe.time()
        oldest, (seconds, micros) = pipe.execute()
        if oldest:
            written = int(oldest[0][0].partition(b"-")[0])
            self.lag = max(self.lag, seconds + micros / 1e6 - written / 1e3)

    def _pipeline(self) -> Any:
        assert isinstance(self.server, RedisServer)
        return self.server.client.pipeline(transaction=True)

    def _is_recorded(self, idle: bool) -> bool:
        # Both in one step: else a job could end between the two looks.
        pipe = self._pipeline()
        pipe.xlen(f"{PREFIX}events")
        pipe.hgetall(f"{PREFIX}counts")
        events, counts = pipe.execute()
        left = sum(
            int(count)
            for name, count in counts.items()
            if name.decode().rpartition("|")[2] in _ACTIVE
        )
        return events == 0 and not (idle and left)

    # -- the store -----------------------------------------------------------------------------------

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.folder / 'coordinator.db'}"

    def completed(self) -> int:
        """Return how many jobs the store has as completed, if its audit log says the same.

        Raises:
            SystemFailed: table and log differ.
        """
        engine = sa.create_engine(self.store_url)
        jobs = "SELECT count(*) FROM coordinator_jobs WHERE state = 'completed'"
        log = "SELECT count(*) FROM coordinator_events WHERE event_type = 'completed'"
        with engine.connect() as connection:
            found = connection.scalar(sa.text(jobs)), connection.scalar(sa.text(log))
        engine.dispose()
        if found[0] != found[1]:
            raise SystemFailed(f"the store has {found[0]} completed jobs, its log {found[1]}")
        return int(found[0] or 0)

    def recorded_since_warm_up(self) -> int:
        """Return how many jobs the store has as completed since the warm-up."""
        return self.completed() - self._completed

    # -- processes -----------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop all workers where they are; helpers, producer and server go on."""
        for program in self.workers:
            program.freeze()

    def thaw(self) -> int:
        """Let all workers go on; returns the moment before (ns, CLOCK_MONOTONIC)."""
        moment = time.monotonic_ns()
        for program in self.workers:
            program.thaw()
        return moment

    def cpu(self) -> Cpu:
        """Return the CPU seconds used so far."""
        return Cpu(
            sum(program.cpu() for program in self.workers),
            sum(program.cpu() for program in self.helpers),
            self.server.cpu(),
        )

    def memory(self) -> Memory:
        """Return the memory of all workers, without the helpers."""
        found = [program.memory() for program in self.workers]
        return Memory(sum(one.rss for one in found), sum(one.pss for one in found))

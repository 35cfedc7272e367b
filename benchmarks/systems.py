"""The systems under test: what their processes are and how they are set up.

Each is told by the commands of its workers and of a producer that speaks as ``benchmarks.producer`` does, with job
bodies that write ``benchmarks.trace`` lines and a file per worker in ``ready/``. Those of other projects are in
``benchmarks.peers``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

_WORKER = (sys.executable, "-m", "benchmarks.worker")


@dataclass(frozen=True)
class System:
    """One way to run jobs.

    Attributes:
        name: its name in tables and on the command line.
        title: what it is, in a line.
        environment: what its processes are told besides broker and folder.
        recorded: whether it has a store with an audit log, whose last commit is waited for.
        locked: whether it runs one job per model.
        ordered: whether jobs of a model run in the order of their submission.
        postgres: whether its jobs are in PostgreSQL, not in Redis.
        package: what must be installed.
    """

    name: str
    title: str
    environment: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False
    locked: bool = False
    ordered: bool = False
    postgres: bool = False
    package: str = "celery"

    def missing(self) -> str | None:
        """Return why it cannot run here, or None."""
        if importlib.util.find_spec(self.package) is None:
            return f"the package {self.package} is not installed"
        return None

    def worker(self, name: str, slots: int) -> tuple[str, ...]:
        """Return the command of a worker of ``slots`` processes."""
        return (*_WORKER, name, "bench", str(slots))

    def helpers(self) -> Mapping[str, tuple[str, ...]]:
        """Return the commands of the processes it needs besides its workers, by name."""
        if not self.recorded:
            return {}
        return {
            "maintenance": (*_WORKER, "maintenance", "maintenance", "1"),
            # Without it reaper, breakers and alerts would cost nothing here, and something elsewhere.
            "beat": (sys.executable, "-m", "benchmarks.beat"),
        }

    def producer(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "benchmarks.producer")


def _coordinated(name: str, durability: str) -> System:
    return System(
        name,
        f"coordinate(app), durability {durability}, store in SQLite",
        {"BENCH_SYSTEM": "coordinated", "BENCH_DURABILITY": durability},
        recorded=True,
        locked=True,
        ordered=True,
        package="coordinator",
    )


def _recipe(name: str, countdown: str) -> System:
    return System(
        name,
        f"Celery, redis-py Lock (not blocking), else self.retry(countdown={countdown})",
        {"BENCH_SYSTEM": "lock", "BENCH_COUNTDOWN": countdown},
        locked=True,
    )


SYSTEMS = {
    system.name: system
    for system in (
        System("celery", "plain Celery, no locks", {"BENCH_SYSTEM": "plain"}, ordered=False),
        _coordinated("coordinated", "database"),
        _coordinated("coordinated-redis", "redis"),
        _recipe("celery-lock01", "0.1"),
        _recipe("celery-lock1", "1"),
    )
}

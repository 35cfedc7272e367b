"""Peers: other queues that run the same jobs, from an installation of their own (``make peers``, in build/peers).

Each has one file here. It is run with the peer's own interpreter, as worker (``worker NAME SLOTS``) and as producer
(``producer``), and imports of this project what needs the standard library only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.systems import System

HERE = Path(__file__).resolve().parent
#: Where ``make peers`` installs them.
INSTALLED = HERE.parent.parent / "build" / "peers"
PYTHON = INSTALLED / "venv" / "bin" / "python"
NODE_MODULES = INSTALLED / "node" / "node_modules"


@dataclass(frozen=True)
class Peer(System):
    """A system of another project.

    Attributes:
        file: its file in this folder.
    """

    file: str = ""

    def missing(self) -> str | None:
        if self.file.endswith(".cjs"):
            there = shutil.which("node") and (NODE_MODULES / self.package).is_dir()
        else:
            there = PYTHON.exists() and any(
                PYTHON.parent.parent.glob(f"lib/python*/site-packages/{self.package}")
            )
        return None if there else f"not installed ({self.package}); make peers does it"

    def _command(self) -> tuple[str, ...]:
        if self.file.endswith(".cjs"):
            return ("node", str(HERE / self.file))
        return (str(PYTHON), "-m", f"benchmarks.peers.{self.file.removesuffix('.py')}")

    def worker(self, name: str, slots: int) -> tuple[str, ...]:
        return (*self._command(), "worker", name, str(slots))

    def helpers(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def producer(self) -> tuple[str, ...]:
        return (*self._command(), "producer")


def _pair(package: str, file: str, plain: str, own: str, lock: str, **promises: bool) -> list[Peer]:
    """A peer as it is, and with what it has to run one job per model."""
    modules = {"NODE_PATH": str(NODE_MODULES)}
    postgres = promises.pop("postgres", False)
    return [
        Peer(
            package,
            f"{plain}; no per-key exclusion",
            {"BENCH_LOCK": "0", **modules},
            package=package,
            file=file,
            postgres=postgres,
        ),
        Peer(
            f"{package}-{own}",
            f"{plain}, {lock}",
            {"BENCH_LOCK": "1", **modules},
            locked=True,
            package=package,
            file=file,
            postgres=postgres,
            **promises,
        ),
    ]


PEERS = {
    peer.name: peer
    for peer in (
        *_pair("rq", "rq.py", "RQ, SimpleWorker", "limit", "rate_limit of 1 per model"),
        *_pair(
            "dramatiq",
            "dramatiq.py",
            "Dramatiq on Redis, one thread per process",
            "mutex",
            "ConcurrentRateLimiter of 1, retries after 0.1 to 1 s",
        ),
        *_pair("huey", "huey.py", "Huey on Redis", "lock", "lock_task, retries after 1 s"),
        *_pair(
            "procrastinate",
            "procrastinate.py",
            "procrastinate on PostgreSQL, one job per worker",
            "lock",
            "lock=model",
            postgres=True,
            ordered=True,
        ),
        *_pair("bullmq", "bullmq.cjs", "BullMQ on Node", "lock", "SET NX, else delayed by 0.1 s"),
        Peer(
            "bullmq-queues",
            "BullMQ on Node, a queue per model of global concurrency 1, all models known beforehand",
            {"BENCH_LOCK": "queue", "NODE_PATH": str(NODE_MODULES)},
            locked=True,
            ordered=True,
            package="bullmq",
            file="bullmq.cjs",
        ),
    )
}

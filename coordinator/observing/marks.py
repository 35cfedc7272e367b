"""The marks of what runs now, on Redis: set when a run begins, renewed while it goes on, gone when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator.errors import LedgerUnavailable, masked
from coordinator.ledger import connection_url
from coordinator.observing.conflicts import Conflicts, told

#: For how long a mark lives that nobody renews, in seconds: so long a killed worker leaves a ghost.
MARK_SECONDS = 20.0

#: For how long counts are kept without a run, in seconds.
KEEP_SECONDS = 30 * 24 * 3600.0

#: Examples that are kept.
EXAMPLES = 100

#: Seconds that a task's process waits for Redis. A run must not be held up by what only looks at it.
PATIENCE = 0.3

_COUNTS = ("since", "runs", "waited", "pairs", "examples", "refused", "errors")


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes:
        key: tells it from every other run.
        job, task, worker: for the report.
        owner: whose lock it runs under, or empty; runs of one owner do not wait for each other.
        root, parent: the job that began all this, and the one that sent it, or empty.
        models: the names of the models it needs, each with its limit.
    """

    key: str
    job: str
    task: str
    worker: str
    owner: str
    root: str
    parent: str
    models: tuple[tuple[str, int], ...]


class Marks:
    """The marks of one installation. Every method raises ``redis.RedisError`` when Redis is not there.

    Args:
        url: the Redis.
        prefix: first part of the ledger's keys; these begin differently, so that a restore does not wipe them.
        patience: seconds to wait for Redis.
    """

    def __init__(self, url: str, prefix: str, patience: float = PATIENCE) -> None:
        self.prefix = f"{prefix.rstrip(':')}-observed:"
        self.redis: Any = redis.Redis.from_url(
            connection_url(url),
            decode_responses=True,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            retry=Retry(NoBackoff(), 0),
        )
        source = files("coordinator.observing").joinpath("begin.lua").read_text("utf-8")
        self._begin = self.redis.register_script(source)

    def begin(self, run: Run, began: int = 0) -> tuple[str, int]:
        """Mark a run, and count it as a conflict when its models are in use.

        Args:
            run: the run.
            began: given for the second look at a run that began at that moment (microseconds); then nothing is marked.

        Returns:
            ``free``, ``conflict``, or ``relative`` when only earlier steps stand in the way (look again), and
            the moment (microseconds).
        """
        models = [{"name": name, "limit": limit} for name, limit in run.models]
        document = json.dumps({**vars(run), "models": models})
        spans = (int(MARK_SECONDS * 1000), int(KEEP_SECONDS * 1000))
        answer, at = self._begin(keys=[self.prefix], args=[document, *spans, EXAMPLES, began])
        return str(answer), int(at)

    def end(self, run: Run) -> None:
        """Take the marks of a run away."""
        with self.redis.pipeline(transaction=False) as commands:
            commands.unlink(f"{self.prefix}run:{run.key}")
            for name, _ in run.models:
                commands.srem(f"{self.prefix}model:{name}", run.key)
            commands.execute()

    def renew(self, runs: Iterable[Run]) -> None:
        """Keep the marks of runs that go on."""
        span = int(MARK_SECONDS * 1000)
        with self.redis.pipeline(transaction=False) as commands:
            for run in runs:
                commands.pexpire(f"{self.prefix}run:{run.key}", span)
                for name, _ in run.models:
                    commands.pexpire(f"{self.prefix}model:{name}", span)
            commands.execute()

    def refuse(self, task: str, error: str) -> None:
        """Count a run whose needs are not valid."""
        with self.redis.pipeline(transaction=False) as commands:
            commands.hincrby(f"{self.prefix}refused", task, 1)
            commands.hset(f"{self.prefix}errors", task, error)
            for name in ("refused", "errors"):
                commands.pexpire(f"{self.prefix}{name}", int(KEEP_SECONDS * 1000))
            commands.execute()

    def conflicts(self) -> Conflicts:
        """Return what was found.

        Raises:
            LedgerUnavailable: Redis is away.
        """
        try:
            with self.redis.pipeline(transaction=False) as commands:
                commands.get(f"{self.prefix}since")
                for name in ("runs", "waited", "pairs"):
                    commands.hgetall(f"{self.prefix}{name}")
                commands.lrange(f"{self.prefix}examples", 0, -1)
                commands.hgetall(f"{self.prefix}refused")
                commands.hgetall(f"{self.prefix}errors")
                found = commands.execute()
        except redis.RedisError as error:
            raise LedgerUnavailable(masked(f"Redis is not there: {error}")) from error
        return told(*found)

    def clear(self) -> None:
        """Forget what was found; what runs now stays marked.

        Raises:
            LedgerUnavailable: Redis is away.
        """
        try:
            self.redis.unlink(*(f"{self.prefix}{name}" for name in _COUNTS))
        except redis.RedisError as error:
            raise LedgerUnavailable(masked(f"Redis is not there: {error}")) from error

"""Running the ledger's scripts: one connection to Redis that knows which life of the server it talks to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.connection import ConnectionPool

from coordinator.errors import LedgerClosed, LedgerFull
from coordinator.ledger.absence import UNREACHED, is_away, is_full, reaching, unavailable
from coordinator.ledger.program import program, sha

#: How long an operation goes on trying to reach Redis, in seconds.
PATIENCE = 5.0

#: Seconds for which a connection needs no look whether it still is one. Each look is a system call, and the
#: pool's bookkeeping around it costs more than packing, sending and reading a script's call together.
FRESH = 1.0


def connection_url(url: str) -> str:
    """Return the URL as redis-py wants it; Kombu writes Unix sockets as ``redis+socket://``."""
    if not url.startswith("redis+socket://"):
        return url
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    login = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return f"unix://{login}{parts.path}?db={database}"


def _connect(connection: Any) -> None:
    # The run id tells one life of the server from the next. It belongs to the connection: after a
    # restart or a failover the old connection is broken and the new one brings the new id.
    connection.on_connect()
    connection.send_command("INFO", "server")
    info = connection.read_response()
    text = info if isinstance(info, str) else bytes(info).decode()
    run_id = next(line for line in text.splitlines() if line.startswith("run_id:"))
    connection.coordinator_run_id = run_id.removeprefix("run_id:").strip()


class _Reader(redis.Redis):
    """A client whose failures to reach Redis are the ledger's."""

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        execute: Any = super().execute_command
        with reaching():
            return execute(*arguments, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return _Reads(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Reads(redis.client.Pipeline):
    """Several reads in one round trip, with the same failures."""

    def execute(self, raise_on_error: bool = True) -> Any:
        execute: Any = super().execute
        with reaching():
            return execute(raise_on_error)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def encoded(data: dict[str, Any]) -> str:
    """Return data as JSON that the scripts can read and write back."""
    # The scripts read it before they change anything, and must be able to write it back after: their
    # decoder refuses half characters (of undecodable file names), their encoder what is no number.
    try:
        text = _encode(data)
    except ValueError:
        plain = json.loads(json.dumps(data), parse_constant=str)
        text = json.dumps(plain, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


class Scripts:
    """The scripts in one Redis database.

    Args:
        url: the database, which is the Celery broker's too.
        prefix: first part of every key.
        patience: seconds an operation goes on trying to reach Redis.
    """

    def __init__(self, url: str, prefix: str = "coordinator:", patience: float = PATIENCE) -> None:
        self.url, self.prefix, self.patience = url, prefix, patience
        # A reply that never comes (the other machine is gone) must not hold a thread for ever.
        options: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
        if not url.startswith(("redis+socket", "unix")):
            options["socket_keepalive"] = True
        self.pool = ConnectionPool.from_url(
            connection_url(url), decode_responses=True, redis_connect_func=_connect, **options
        )
        #: For reads; every change goes through a script. Answers are text.
        self.redis: Any = _Reader(connection_pool=self.pool)
        #: Connections between two calls, and when the last one ended; of the process with this number.
        self._kept: list[tuple[Any, float]] = []
        self._pid = os.getpid()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Give a connection of the pool, for what is no script."""
        connection = self.pool.get_connection()
        try:
            yield connection
        except BaseException:
            # A reply may still be under way: nobody else may read it.
            connection.disconnect()
            raise
        finally:
            self.pool.release(connection)

    def load(self) -> None:
        """Load the scripts if the server does not have them.

        Loaded when they are first needed, in a server that has a million jobs by then, they would lie scattered
        between these, and every run of them, and of Lua's collector, took half as long again.
        """
        with self._connection() as connection:
            connection.send_command("SCRIPT", "EXISTS", sha())
            if not connection.read_response()[0]:
                connection.send_command("SCRIPT", "LOAD", program())
                connection.read_response()

    def clock(self) -> int:
        """Return Redis's clock, Unix milliseconds: the one clock that all processes share.

        Raises:
            LedgerUnavailable: Redis was not reached.
        """
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _fresh(self) -> Any:
        """Return a connection that was used a moment ago and that nobody else uses now, or None."""
        if self._pid != os.getpid():
            # Two processes that read replies from one socket would take each other's.
            self._kept, self._pid = [], os.getpid()
        try:
            connection, used = self._kept.pop()
        except IndexError:
            return None
        if time.monotonic() - used < FRESH:
            return connection
        self.pool.release(connection)
        return None

    def run(self, name: str, *arguments: str | bytes | float, patience: float | None = None) -> Any:
        """Run a script and return its decoded answer.

        A script whose reply was lost is run again: every script is safe to repeat.

        Raises:
            LedgerUnavailable: Redis was not reached in time, or only one that cannot now (a replica, a full disk).
            LedgerClosed: the ledger is not of this life of the server, or is being restored.
        """
        return self.run_all(name, [arguments], patience)[0]

    def run_all(
        self,
        name: str,
        calls: Sequence[tuple[str | bytes | float, ...]],
        patience: float | None = None,
        new: bool = False,
    ) -> list[Any]:
        """Run a script several times in one round trip; others' scripts may come between.

        Args:
            name: the script.
            calls: arguments of each.
            patience: seconds to go on trying to reach Redis.
            new: whether they ask for what a full Redis need not take.

        Raises:
            As ``run``.
            LedgerFull: they are ``new`` and Redis is full.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        pause = 0.02
        while calls:
            try:
                answers = [json.loads(reply) for reply in self._evaluate(name, calls)]
            except (*UNREACHED, redis.ResponseError) as error:
                if new and is_full(error):
                    memory = self.redis.info("memory")
                    raise LedgerFull(memory["used_memory"], memory["maxmemory"]) from error
                if not is_away(error):
                    raise
                # The connection is closed already: the next one may be to the server's successor.
                if time.monotonic() + pause > deadline:
                    raise unavailable(error) from error
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            for answer in answers:
                if isinstance(answer, dict) and answer.get("answer") == "no-epoch":
                    raise LedgerClosed("the ledger has no epoch for this life of the Redis server")
            return answers
        return []

    def _evaluate(self, name: str, calls: Sequence[tuple[str | bytes | float, ...]]) -> list[str]:
        connection = self._fresh()
        if connection is not None:
            try:
                return self._asked(connection, name, calls)
            except redis.ConnectionError:
                # Closed since it was used last, which says nothing of Redis now. The pool's are looked at.
                pass
        return self._asked(self.pool.get_connection(), name, calls)

    def _asked(
        self, connection: Any, name: str, calls: Sequence[tuple[str | bytes | float, ...]]
    ) -> list[str]:
        with self._lent(connection):
            call = f"{name} {connection.coordinator_run_id}"
            start = ("EVALSHA", sha(), 1, self.prefix, call)
            commands = [(*start, *arguments) for arguments in calls]
            try:
                replies = self._replies(connection, commands)
            except redis.exceptions.NoScriptError:
                connection.send_command("SCRIPT", "LOAD", program())
                connection.read_response()
                replies = self._replies(connection, commands)
        return replies

    @contextmanager
    def _lent(self, connection: Any) -> Iterator[None]:
        """Connect, and keep the connection for the next call."""
        try:
            # A new connection may be to another life of the server: its run id is asked for first.
            connection.connect()
            yield
        except BaseException:
            # A reply may still be under way: nobody else may read it.
            connection.disconnect()
            self.pool.release(connection)
            raise
        self._kept.append((connection, time.monotonic()))

    def _replies(self, connection: Any, commands: list[tuple[Any, ...]]) -> list[str]:
        if len(commands) == 1:
            connection.send_packed_command(connection.pack_command(*commands[0]))
            return [str(connection.read_response())]
        connection.send_packed_command(connection.pack_commands(commands))
        replies, failure = [], None
        for _ in commands:
            # Every reply is read, or the next one who uses the connection would get it.
            try:
                replies.append(str(connection.read_response()))
            except redis.exceptions.ResponseError as error:
                failure = failure or error
        if failure:
            raise failure
        return replies

"""The ledger: who may run now. One method per script; each script is one transition, atomic by being one.

The scripts are in ``lua/``, one file per operation. What they share is put in front of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.connection import ConnectionPool

from coordinator.errors import LedgerClosed, LedgerUnavailable
from coordinator.jobs import Event, Job
from coordinator.resources import models_of, reason_text

_ADMITTING = ("jobs", "capacity", "wide", "classes", "admission", "ending")
_ADMISSION = ("keys", "epoch", *_ADMITTING)

#: What is put in front of a script; scripts that touch no job do without the admission code.
_PARTS: dict[str, tuple[str, ...]] = {
    "open": ("keys",),
    "elect": ("keys",),
    "wipe": ("keys",),
    "progress": ("keys", "epoch"),
    "settle": ("keys", "epoch", "jobs"),
    "build": ("keys", "building"),
    "restore": ("keys", "building", *_ADMITTING),
    "submit": (*_ADMISSION, "blockers"),
    "why": (*_ADMISSION, "blockers"),
    "tick": (*_ADMISSION, "reservation"),
}

#: How long an operation goes on trying to reach Redis, in seconds.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a submitted job.

    Attributes:
        job_id: the job.
        state: ``dispatched``, ``waiting`` or ``delayed``; of a job known before, its present state.
        known: whether it had been submitted before, so that nothing changed.
        resource, code: what stops a waiting job, and why.
        holders: up to three owners of that resource.
        position: its place among those that wait for it, from 1.
    """

    job_id: str
    state: str
    known: bool = False
    resource: str | None = None
    code: str | None = None
    holders: tuple[str, ...] = ()
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """What stops a waiting job now; see ``Admission`` for the fields."""

    resource: str
    code: str
    holders: tuple[str, ...]
    position: int
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: ``granted``, ``stale``, ``held`` or ``no-worker``."""

    answer: str
    attempts: int = 0
    losses: int = 0
    held: tuple[str, ...] = ()

    @property
    def granted(self) -> bool:
        return self.answer == "granted"


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer to a finish.

    Attributes:
        answer: ``done``, ``again`` (said before), ``stale`` (another run has the job) or ``gone``.
        state: where the job stands now.
        started: jobs that were dispatched in the same step.
    """

    answer: str
    state: str | None = None
    started: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a renewal.

    Attributes:
        answer: ``ok``, or ``expired``: the worker has lost all its jobs.
        stop: running jobs that must end, with ``cancel`` or ``release``.
        lost: jobs the worker reported that are not, or no longer, its own.
        lease_ms: length of the lease.
    """

    answer: str
    stop: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    lease_ms: int = 0


@cache
def _source(name: str) -> str:
    folder = files("coordinator").joinpath("lua")
    parts = (*_PARTS.get(name, _ADMISSION), name)
    return "\n".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in parts)


def connection_url(url: str) -> str:
    """Return the URL as redis-py wants it; Kombu writes Unix sockets as ``redis+socket://``."""
    if not url.startswith("redis+socket://"):
        return url
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    login = f":{parts.password}@" if parts.password else ""
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
        try:
            return execute(*arguments, **options)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise LedgerUnavailable(f"Redis cannot be reached: {error}") from error


class Ledger:
    """The ledger in one Redis database.

    Args:
        url: the database, which is the Celery broker's too.
        prefix: first part of every key.
        patience: seconds an operation goes on trying to reach Redis.
    """

    def __init__(self, url: str, prefix: str = "coordinator:", patience: float = PATIENCE) -> None:
        self.url, self.prefix, self.patience = url, prefix, patience
        # A reply that never comes (the other machine is gone) must not hold a thread for ever.
        silence = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
        self.pool = (
            ConnectionPool.from_url(
                connection_url(url),
                decode_responses=True,
                redis_connect_func=_connect,
                socket_keepalive=True,
                **silence,
            )
            if not url.startswith(("redis+socket", "unix"))
            else ConnectionPool.from_url(
                connection_url(url), decode_responses=True, redis_connect_func=_connect, **silence
            )
        )
        #: For reads; every change goes through a script. Answers are text.
        self.redis: Any = _Reader(connection_pool=self.pool)
        self._shas: dict[str, str] = {}
        self._lock = threading.Lock()

    # -- running scripts -------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self.pool.get_connection()
        try:
            yield connection
        except BaseException:
            # A reply may still be under way: nobody else may read it.
            connection.disconnect()
            raise
        finally:
            self.pool.release(connection)

    def run(self, name: str, *arguments: str | float, patience: float | None = None) -> Any:
        """Run a script and return its decoded answer.

        A script whose reply was lost is run again: every script is safe to repeat.

        Raises:
            LedgerUnavailable: Redis was not reached in time.
            LedgerClosed: the ledger is not of this life of the server, or is being restored.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        pause = 0.02
        while True:
            try:
                answer = json.loads(self._evaluate(name, arguments))
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                if time.monotonic() + pause > deadline:
                    raise LedgerUnavailable(f"Redis cannot be reached: {error}") from error
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            if isinstance(answer, dict) and answer.get("answer") == "no-epoch":
                raise LedgerClosed("the ledger has no epoch for this life of the Redis server")
            return answer

    def _evaluate(self, name: str, arguments: tuple[str | int | float, ...]) -> str:
        with self._connection() as connection:
            sha = self._shas.get(name)
            if sha is None:
                connection.send_command("SCRIPT", "LOAD", _source(name))
                sha = self._shas[name] = connection.read_response()
            command = ("EVALSHA", sha, 1, self.prefix, connection.coordinator_run_id, *arguments)
            connection.send_command(*command)
            try:
                reply = connection.read_response()
            except redis.exceptions.NoScriptError:
                connection.send_command("SCRIPT", "LOAD", _source(name))
                connection.read_response()
                connection.send_command(*command)
                reply = connection.read_response()
            return str(reply)

    # -- jobs ------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job], rows: Sequence[str] = ()) -> list[Admission]:
        """Accept jobs, in one step; each starts at once or waits.

        Args:
            jobs: at most some hundred.
            rows: for each job its row as JSON when the store does not have it yet (durability redis).
        """
        arguments: list[str | int | float] = []
        for index, job in enumerate(jobs):
            arguments += (
                job.job_id,
                job.class_id,
                " ".join(job.needs),
                job.priority,
                job.org or "",
                job.owner,
                job.task,
                job.due_ms,
                job.expires_ms,
                job.max_retries,
                job.retries,
                job.message,
                rows[index] if rows else "",
            )
        answers = self.run("submit", *arguments)
        return [_admission(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    def claim(self, job_id: str, token: int, nonce: str, worker: str) -> Claim:
        """Take a dispatched job for a worker; see ``lua/claim.lua``."""
        answer = self.run("claim", job_id, token, nonce, worker)
        return Claim(
            answer["answer"],
            answer.get("attempts", 0),
            answer.get("losses", 0),
            tuple((answer.get("held") or "").split()),
        )

    def finish(
        self,
        job_id: str,
        token: int,
        outcome: str,
        data: dict[str, Any] | None = None,
        successor: Job | None = None,
        row: str = "",
        patience: float | None = None,
    ) -> Finish:
        """End a run; see ``lua/finish.lua``.

        Args:
            job_id, token: the run.
            outcome: completed, failed, unprocessable, retried, replaced, released or lost.
            data: kept with the event: result, error, reason.
            successor: the message that takes the job's place (retry, replace).
            row: the successor as JSON for the recorder.
        """
        following = "" if successor is None else json.dumps(_successor(successor, row))
        answer = self.run(
            "finish",
            job_id,
            token,
            outcome,
            _json(data or {}),
            following,
            patience=patience,
        )
        return Finish(answer["answer"], answer.get("state"), tuple(answer.get("started") or ()))

    def undeliver(self, job_id: str, token: int, reason: str, end: bool = False) -> bool:
        """Take back a dispatched job that its worker will not run; ``end`` cancels it instead."""
        answer = self.run("undeliver", job_id, token, reason, "canceled" if end else "")
        return bool(answer["answer"] == "done")

    def cancel(self, job_id: str, reason: str, by: str) -> dict[str, Any]:
        """Cancel a job that has not ended; see ``lua/cancel.lua`` for the answers."""
        return dict(self.run("cancel", job_id, "cancel", reason, by))

    def release(self, job_id: str, reason: str, by: str) -> dict[str, Any]:
        """Stop a running job and put it back to waiting."""
        return dict(self.run("cancel", job_id, "release", reason, by))

    def progress(self, job_id: str, token: int, progress: dict[str, Any] | None) -> str | None:
        """Record progress; returns ``cancel``, ``release`` or ``stale`` when the run has to stop."""
        text = "" if progress is None else json.dumps(progress)
        answer = self.run("progress", job_id, token, text)
        return "stale" if answer["answer"] == "stale" else answer.get("stop")

    # -- workers ---------------------------------------------------------------------------------

    def renew(
        self,
        worker: str,
        queues: Iterable[str],
        slots: int,
        busy: int = 0,
        hand: Iterable[tuple[str, int]] = (),
        report: dict[str, Any] | None = None,
        register: bool = False,
        patience: float | None = None,
    ) -> Renewal:
        """Extend a worker's lease and all its jobs with it.

        Args:
            worker: the worker's id, unique to this life of its process.
            queues: what it consumes.
            slots: jobs it can run at once.
            busy: slots taken by work the ledger does not know.
            hand: (job id, token) of every coordinated message it has, begun or not.
            report: what people want to know: node name, host, pid, pool, version.
            register: whether it starts, or has ended all jobs it had.
        """
        pairs = [part for pair in hand for part in pair]
        answer = self.run(
            "renew",
            worker,
            "1" if register else "",
            slots,
            busy,
            " ".join(sorted(queues)),
            json.dumps(report or {}),
            *pairs,
            patience=patience,
        )
        return Renewal(
            answer["answer"],
            answer.get("stop") or {},
            tuple(answer.get("lost") or ()),
            int(answer.get("lease_ms") or 0),
        )

    def leave(self, worker: str, reason: str = "left") -> None:
        """End a worker; what it had goes back. Any reason but ``left`` counts as a lost run."""
        self.run("leave", worker, reason)

    def tick(self) -> dict[str, Any]:
        """Do what is due: leases, delayed jobs, ends of holds and limits, pending wakes."""
        return dict(self.run("tick"))

    # -- resources -------------------------------------------------------------------------------

    def hold(self, resource: str, by: str, reason: str = "", until_ms: int | None = None) -> None:
        """Hold a resource: nothing that needs it starts after this returned."""
        note: dict[str, Any] = {"by": by, "reason": reason}
        if until_ms:
            note["until_ms"] = until_ms
        self.run("hold", resource, _json(note))

    def resume(self, resource: str, by: str, reason: str = "") -> bool:
        """End a hold; False when there was none."""
        return bool(self.run("resume", resource, by, reason)["answer"] == "done")

    def limit(
        self, resource: str, value: int | None, by: str, reason: str = "", until_ms: int = 0
    ) -> None:
        """Set the limit of a resource, or reset it to the configured one with None."""
        self.run("limit", resource, "" if value is None else value, until_ms, by, reason)

    def configure(self, values: dict[str, str]) -> None:
        """Set configured limits and times; an empty value removes one."""
        self.run("configure", *[part for pair in values.items() for part in pair])

    # -- epochs, events, terms -------------------------------------------------------------------

    def epoch(self) -> int | None:
        """Return the present epoch, or None when the ledger has none for this life of the server.

        Raises:
            LedgerUnavailable: Redis was not reached.
        """
        try:
            with self._connection() as connection:
                connection.send_command("HMGET", f"{self.prefix}meta", "epoch", "run_id", "open")
                epoch, run_id, state = connection.read_response()
                current = run_id == connection.coordinator_run_id and state != "building"
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise LedgerUnavailable(f"Redis cannot be reached: {error}") from error
        return int(epoch) if epoch and current else None

    def open(self, epoch: int, state: str = "1", awaited: Sequence[str] = ()) -> None:
        """Open an epoch for this life of the server; see ``lua/open.lua``.

        Args:
            epoch: greater than every one before.
            state: ``building``, ``0`` (workers report, nobody is admitted) or ``1`` (open).
            awaited: workers to wait for, one lease at most; while building, the one who builds.

        Raises:
            LedgerClosed: somebody else builds, or has built, a later one.
        """
        self.run("open", epoch, state, *awaited)

    def open_for_workers(self, epoch: int, awaited: Sequence[str]) -> None:
        """End building; admission opens when these workers have reported, or after one lease."""
        self.open(epoch, "0", awaited)
        if not awaited:
            self.tick()

    def restore(self, epoch: int, jobs: Sequence[Any]) -> None:
        """Enter unfinished jobs (``store.StoredJob``) into a ledger that is being built."""
        arguments: list[str | int | float] = [epoch]
        for item in jobs:
            job = item.job
            arguments += (
                job.job_id,
                job.class_id,
                " ".join(job.needs),
                job.priority,
                job.org or "",
                job.owner,
                job.task,
                job.due_ms,
                job.expires_ms,
                job.max_retries,
                job.retries,
                job.message,
                item.sequence,
                item.attempts,
                item.losses,
                item.state.value,
                item.worker or "",
                item.token or 0,
            )
        self.run("restore", *arguments)

    def known_workers(self) -> set[str]:
        """Return the workers of the ledger, whatever life of the server it is of."""
        return set(self.redis.zrange(f"{self.prefix}workers", 0, -1))

    def wipe(self, holder: str) -> None:
        """Delete everything but the terms of singletons.

        Raises:
            LedgerClosed: ``holder`` does not hold the term of the restore any more.
        """
        cursor = "0"
        while True:
            cursor = self.run("wipe", holder, cursor)["cursor"]
            if cursor == "0":
                return

    def last_event(self) -> tuple[int, str]:
        """Return the epoch and the id of the last event ever written; (0, "") when there is none."""
        epoch = int(self.redis.hget(f"{self.prefix}meta", "epoch") or 0)
        if not self.redis.exists(f"{self.prefix}events"):
            return epoch, ""
        return epoch, self.redis.xinfo_stream(f"{self.prefix}events")["last-generated-id"]

    def forget_events(self, last_id: str) -> None:
        """Trim the stream up to and with an event, in a ledger that is closed."""
        milliseconds, part = last_id.split("-")
        self.redis.xtrim(
            f"{self.prefix}events", minid=f"{milliseconds}-{int(part) + 1}", approximate=False
        )

    def elect(self, name: str, holder: str, ttl_ms: int) -> bool:
        """Take or extend a singleton's term; False when somebody else holds it."""
        return bool(self.run("elect", name, holder, ttl_ms)["answer"] == "yes")

    def resign(self, name: str, holder: str) -> None:
        """Give up a singleton's term."""
        self.run("elect", name, holder, 0)

    def read_events(self, count: int) -> list[Event]:
        """Return the oldest events that were not settled."""
        epoch = int(self.redis.hget(f"{self.prefix}meta", "epoch") or 0)
        entries = self.redis.xrange(f"{self.prefix}events", count=count)
        return [_event(epoch, entry_id, fields) for entry_id, fields in entries]

    def settle(self, events: Sequence[Event]) -> None:
        """Forget events the store has committed, and the tombstones of the jobs they ended."""
        if not events:
            return
        ended = [
            part
            for event in events
            if event.data.get("state") in ("completed", "failed", "unprocessable", "canceled")
            for part in (event.job_id, event.version)
        ]
        self.run("settle", events[-1].event_id, *ended)

    # -- reads -----------------------------------------------------------------------------------

    def job(self, job_id: str) -> dict[str, str] | None:
        """Return what the ledger knows of a job, or None."""
        return self.redis.hgetall(f"{self.prefix}job:{job_id}") or None

    def parked(self, job_id: str) -> Parked | None:
        """Return what stops a waiting job now, or None when it does not wait."""
        answer = self.run("why", job_id)
        if answer.get("answer") == "none":
            return None
        return Parked(
            answer["resource"],
            answer["code"],
            tuple(answer.get("holders") or ()),
            answer["position"],
            tuple(answer["needs"]),
        )

    def unknown(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of the jobs that the ledger does not know, tombstones being known."""
        pipe = self.redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.exists(f"{self.prefix}job:{job_id}")
        return {job_id for job_id, there in zip(job_ids, pipe.execute(), strict=True) if not there}

    def waiting(self, limit: int) -> list[str]:
        """Return ids of waiting jobs: of the heads of up to 1,000 classes the oldest ``limit``."""
        heads: list[tuple[float, str]] = []
        for key in self.redis.scan_iter(match=f"{self.prefix}class:*", count=1000):
            heads += [
                (at, job_id) for job_id, at in self.redis.zrange(key, 0, limit - 1, withscores=True)
            ]
            if len(heads) >= 1000 * limit:
                break
        return [job_id for _, job_id in sorted(heads)[:limit]]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs by (queue, state)."""
        raw = self.redis.hgetall(f"{self.prefix}counts")
        found = {}
        for name, number in raw.items():
            queue, _, state = name.rpartition("|")
            if int(number):
                found[queue, state] = int(number)
        return found

    def workers(self) -> list[dict[str, Any]]:
        """Return the live workers with what they reported."""
        found = []
        for worker, until in self.redis.zrange(f"{self.prefix}workers", 0, -1, withscores=True):
            fields = self.redis.hgetall(f"{self.prefix}worker:{worker}")
            if fields:
                report = json.loads(fields.pop("report", "{}"))
                jobs = self.redis.smembers(f"{self.prefix}worker:{worker}:jobs")
                found.append(
                    {"id": worker, **fields, **report, "lease_ms": until, "jobs": sorted(jobs)}
                )
        return found

    def present(self) -> dict[tuple[str, str | None], int]:
        """Return the number of unfinished jobs by (queue, model); a job of several models counts for each."""
        found: dict[tuple[str, str | None], int] = {}
        for needs, number in self._needs():
            models = models_of(needs) or (None,)
            for model in models:
                key = (needs[-1].split(":", 1)[1], model)
                found[key] = found.get(key, 0) + number
        return found

    def _needs(self) -> Iterator[tuple[list[str], int]]:
        prefix = self.prefix
        for key in self.redis.scan_iter(match=f"{prefix}needs:*", count=1000):
            class_id = key.removeprefix(f"{prefix}needs:")
            needs = self.redis.hget(key, "needs")
            if needs:
                yield needs.split(), self.redis.zcard(f"{prefix}class:{class_id}")
        busy = [*self.redis.zrange(f"{prefix}dispatched", 0, -1)]
        busy += self.redis.zrange(f"{prefix}delayed", 0, -1)
        busy += [job["id"] for job in self.running()]
        for job_id in set(busy):
            needs = self.redis.hget(f"{prefix}job:{job_id}", "needs")
            if needs:
                yield needs.split(), 1

    def holders(self, resource: str) -> set[str]:
        return set(self.redis.smembers(f"{self.prefix}holders:{resource}"))

    def holds(self) -> dict[str, dict[str, Any]]:
        """Return the held resources, each with who, why and until when."""
        raw = self.redis.hgetall(f"{self.prefix}holds")
        return {resource: json.loads(note) for resource, note in raw.items()}

    def running(self) -> list[dict[str, str]]:
        """Return the jobs that run or are being stopped."""
        found = []
        for worker in self.redis.zrange(f"{self.prefix}workers", 0, -1):
            for job_id in self.redis.smembers(f"{self.prefix}worker:{worker}:jobs"):
                job = self.job(job_id)
                if job:
                    found.append({"id": job_id, **job})
        return found


def _json(data: dict[str, Any]) -> str:
    # The scripts read it before they change anything, and must be able to write it back after: their
    # decoder refuses half characters (of undecodable file names), their encoder what is no number.
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError:
        plain = json.loads(json.dumps(data), parse_constant=str)
        text = json.dumps(plain, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _admission(job: Job, answer: dict[str, Any]) -> Admission:
    if "known" in answer:
        return Admission(job.job_id, answer["known"], known=True)
    return Admission(
        job.job_id,
        answer["state"],
        resource=answer.get("resource"),
        code=answer.get("code"),
        holders=tuple(answer.get("holders") or ()),
        position=answer.get("position"),
    )


def _successor(job: Job, row: str) -> dict[str, Any]:
    following: dict[str, Any] = {
        "class": job.class_id,
        "needs": " ".join(job.needs),
        "priority": str(job.priority),
        "org": job.org or "",
        "owner": job.owner,
        "task": job.task,
        "due_ms": job.due_ms,
        "expires_ms": job.expires_ms,
        "max_retries": str(job.max_retries),
        "retries": str(job.retries),
        "message": job.message,
    }
    if row:
        following["row"] = row
    return following


def _event(epoch: int, event_id: str, fields: dict[str, str]) -> Event:
    data = json.loads(fields["data"]) or {}
    if not isinstance(data, dict):
        data = {}
    for name in ("token", "sequence"):
        if name in data:
            data[name] = int(data[name])
    if "row" in data:
        data["row"] = json.loads(data["row"])
    if fields["verb"] == "blocked":
        data["reason"] = reason_text(data["resource"], data["code"], data.get("holders") or ())
    return Event(
        int(fields.get("epoch", epoch)),
        event_id,
        fields["verb"],
        fields["job"],
        int(fields["version"]),
        int(fields["at"]),
        data,
    )

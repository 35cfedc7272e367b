"""The life of a job: submit, claim, finish and what may happen between."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import redis

from coordinator.errors import LedgerClosed, LedgerFull, LedgerUnavailable
from coordinator.jobs import Job, Result
from coordinator.ledger.absence import reaching
from coordinator.ledger.answers import Admission, Claim, Finish
from coordinator.ledger.scripts import Scripts, encoded

#: Jobs that one script accepts, and needs of them together.
PIECE, NEEDS = 20, 100


class Jobs(Scripts):
    """The verbs of jobs; each is one script."""

    def submit(
        self, jobs: Sequence[Job], rows: Sequence[str] = (), insist: bool = False
    ) -> list[Admission]:
        """Accept jobs; each starts at once or waits.

        One script takes a piece of them, so that nobody waits long for Redis; one round trip carries the
        first piece and another all others.

        Args:
            jobs: at most some hundred.
            rows: for each job its row as JSON when the store does not have it yet (durability redis).
            insist: whether they are taken even when Redis is nearly full.

        Raises:
            LedgerFull: Redis is nearly full; nothing was taken.
        """
        if not jobs:
            return []
        pieces = [
            [
                part
                for index in piece
                for part in (*described(jobs[index]), rows[index] if rows else "")
            ]
            for piece in _pieces(jobs)
        ]
        # The reaper's come from other machines, whose clocks nobody knows.
        clock = "" if "entered" in rows else _clock()
        calls = [("1" if insist else "", clock, *pieces[0])]
        (first,) = self.run_all("submit", calls, new=not insist)
        if isinstance(first, dict):
            raise LedgerFull(int(first["used"]), int(first["allowed"]))
        # What follows belongs to what was taken: all or nothing.
        answers = first
        for others in self.run_all("submit", [("1", clock, *piece) for piece in pieces[1:]]):
            answers += others
        return [_admission(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    def claim(
        self, job_id: str, token: int, nonce: str, worker: str, stands_by: bool = False
    ) -> Claim:
        """Take a dispatched job for a worker; see ``lua/claim.lua``.

        Args:
            job_id, token: the delivery.
            nonce: of this claim, the same when it is repeated.
            worker: who takes it.
            stands_by: whether the calling process has time, should the job still lack one unit: it waits for that
                at most a fraction of a second.
        """
        run = (job_id, token, nonce, worker)
        answer = self.run("claim", *run, "first" if stands_by else "")
        if answer["answer"] == "standby":
            grant = None
            with contextlib.suppress(LedgerUnavailable, redis.ResponseError):
                # What was wrong with the waiting the claim will see as well, or need not know.
                grant = self._await_turn(token, float(answer["seconds"]))
            answer = json.loads(grant) if grant else self.run("claim", *run, "last")
        return Claim(
            answer["answer"],
            answer.get("attempts", 0),
            answer.get("losses", 0),
            tuple((answer.get("held") or "").split()),
        )

    def _await_turn(self, token: int, seconds: float) -> str | None:
        with reaching():
            connection = self._fresh() or self.pool.get_connection()
            with self._lent(connection):
                connection.send_command("BLPOP", f"{self.prefix}turn:{token}", seconds)
                found = connection.read_response()
        return str(found[1]) if found else None

    def finish(
        self,
        job_id: str,
        token: int,
        outcome: str,
        data: dict[str, Any] | None = None,
        successor: Job | None = None,
        row: str = "",
        result: Result | None = None,
        keep_ms: int | None = None,
        patience: float | None = None,
    ) -> Finish:
        """End a run; see ``lua/finish.lua``.

        Args:
            job_id, token: the run.
            outcome: completed, failed, unprocessable, retried, replaced, released or lost.
            data: kept with the event: result, error, reason.
            successor: the message that takes the job's place (retry, replace); of a completed job the one
                that follows it.
            row: the successor as JSON for the recorder.
            result: written and published when the run completes the job.
            keep_ms: how long the owner keeps what it holds until the job that follows begins; 0 gives it back
                now, None keeps it.
        """
        following = ""
        if successor is not None:
            following = json.dumps(_successor(successor, row, keep_ms))
        written = () if result is None else (result.key, result.seconds, result.value)
        answer = self.run(
            "finish",
            job_id,
            token,
            outcome,
            encoded(data or {}),
            following,
            *written,
            patience=patience,
        )
        if answer.get("granted"):
            # Not in the same step: those that began need not wait until who is next is found.
            with contextlib.suppress(LedgerUnavailable, LedgerClosed, redis.ResponseError):
                self.run("bring", *answer["granted"], patience=0)
        return Finish(answer["answer"], answer.get("state"), tuple(answer.get("started") or ()))

    def undeliver(
        self,
        job_id: str,
        token: int,
        reason: str,
        end: bool = False,
        patience: float | None = None,
    ) -> bool:
        """Take back a dispatched job that its worker will not run; ``end`` cancels it instead."""
        verb = "canceled" if end else ""
        answer = self.run("undeliver", job_id, token, reason, verb, patience=patience)
        return bool(answer["answer"] == "done")

    def cancel(self, job_id: str, reason: str, by: str, kind: str = "cancel") -> dict[str, Any]:
        """Cancel a job that has not ended; see ``lua/cancel.lua`` for the answers.

        Args:
            job_id: the job.
            reason, by: kept in the log.
            kind: ``cancel``, or ``withdraw``, which leaves a running job alone.
        """
        return dict(self.run("cancel", job_id, kind, reason, by, secrets.token_hex(8)))

    def release(
        self, job_id: str, reason: str, by: str, token: int | None = None
    ) -> dict[str, Any]:
        """Stop a running job and put it back to waiting; with a token only that run of it."""
        run = () if token is None else (token,)
        return dict(self.run("cancel", job_id, "release", reason, by, secrets.token_hex(8), *run))

    def progress(
        self,
        job_id: str,
        token: int,
        progress: dict[str, Any] | None,
        patience: float | None = None,
    ) -> str | None:
        """Record progress; returns ``cancel``, ``release``, ``fail`` or ``stale`` when the run has to stop."""
        text = "" if progress is None else json.dumps(progress)
        answer = self.run("progress", job_id, token, text, patience=patience)
        return "stale" if answer["answer"] == "stale" else answer.get("stop")


def _clock() -> int:
    """Return this machine's clock, Unix milliseconds: scripts bring what it says of times to Redis's."""
    return time.time_ns() // 1_000_000


def described(job: Job) -> tuple[str | int, ...]:
    """Return what a script needs to know of a job."""
    return (
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
    )


def _pieces(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the indexes of the jobs that go together: one script must not go through too many needs."""
    pieces: list[list[int]] = [[]]
    needs = 0
    for index, job in enumerate(jobs):
        needs += len(job.needs)
        if pieces[-1] and (len(pieces[-1]) == PIECE or needs > NEEDS):
            pieces.append([])
            needs = len(job.needs)
        pieces[-1].append(index)
    return pieces


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


def _successor(job: Job, row: str, keep_ms: int | None) -> dict[str, Any]:
    following: dict[str, Any] = {
        "id": job.job_id,
        "class": job.class_id,
        "needs": " ".join(job.needs),
        "priority": str(job.priority),
        "org": job.org or "",
        "owner": job.owner,
        "task": job.task,
        "due_ms": job.due_ms,
        "expires_ms": job.expires_ms,
        "clock_ms": _clock(),
        "max_retries": str(job.max_retries),
        "retries": str(job.retries),
        "message": job.message,
    }
    if row:
        following["row"] = row
    if keep_ms is not None:
        following["keep_ms"] = keep_ms
    return following

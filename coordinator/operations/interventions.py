"""What operators do to single jobs. Each is one step of the ledger, and in the log with who and why."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coordinator.author import default_author
from coordinator.errors import Refused
from coordinator.jobs import Job
from coordinator.recovery.records import Records

if TYPE_CHECKING:
    from coordinator.store import StoredJob


class Interventions(Records):
    """The operators' verbs about one job."""

    def cancel_job(self, job_id: str, reason: str = "", by: str | None = None) -> str:
        """Cancel a job that waits, runs, failed or is unprocessable; a running one is stopped first.

        Args:
            job_id: the job.
            reason, by: kept in the log; ``by`` is this process's user by default.

        Returns:
            ``canceled``, or ``stopping`` while a running job is being ended.

        Raises:
            UnknownJob: no such job.
            Refused: it is completed, or canceled already.
            LedgerUnavailable, LedgerClosed: not now.
        """
        author, why = by or default_author(), reason or "canceled"
        answer = self.ledger.cancel(job_id, why, author)
        if answer["answer"] in ("gone", "ended"):
            stored = self._stored(job_id)
            answer = self.ledger.dismiss(job_id, _known(stored), stored.job.queue, why, author)
            if answer["answer"] == "ended":
                raise Refused(f"job {job_id} has ended: it is {answer['state']}")
            if answer["answer"] == "active":
                # The reaper entered it, or somebody resubmitted it, between the two.
                answer = self.ledger.cancel(job_id, why, author)
                if answer["answer"] in ("gone", "ended"):
                    raise Refused(f"job {job_id} has ended meanwhile: look again")
        return "stopping" if answer["answer"] == "stopping" else "canceled"

    def release_job(self, job_id: str, reason: str | None = None, by: str | None = None) -> str:
        """Stop a running job and put it back to waiting, without counting the run against it.

        It keeps its models until its process has ended, and then waits at its old place.

        Args:
            job_id: the job.
            reason, by: kept in the log.

        Returns:
            ``stopping``.

        Raises:
            UnknownJob: no such job.
            Refused: it does not run.
        """
        answer = self.ledger.release(job_id, reason or "released", by or default_author())
        return self._running(job_id, answer)

    def fail_job(self, job_id: str, reason: str | None = None, by: str | None = None) -> str:
        """Stop a running job and let it end as FAILED, for review; nothing retries it.

        Args:
            job_id: the job.
            reason, by: kept in the log; the reason is its error.

        Returns:
            ``stopping``.

        Raises:
            UnknownJob: no such job.
            Refused: it does not run.
        """
        author = by or default_author()
        answer = self.ledger.fail(job_id, reason or f"moved to failed by {author}", author)
        return self._running(job_id, answer)

    def remove_job(self, job_id: str, reason: str = "", by: str | None = None) -> str:
        """Take a job out at once, canceled, whether its process has ended or not.

        The last resort for a run that cannot be stopped. Its models are free at once; until its worker has heard
        of it, a second or so, the run may still write beside the next holder, and only the fencing token
        keeps that out.

        Args:
            job_id: the job.
            reason, by: kept in the log.

        Returns:
            ``canceled``.

        Raises:
            UnknownJob: no such job.
            Refused: it has ended.
        """
        author, why = by or default_author(), reason or "removed by force"
        answer = self.ledger.remove(job_id, why, author)
        if answer["answer"] == "idle":
            answer = self.ledger.cancel(job_id, why, author)
            if answer["answer"] == "stopping":
                # A worker took it between the two.
                answer = self.ledger.remove(job_id, why, author)
        if answer["answer"] == "gone":
            stored = self._stored(job_id)
            raise Refused(f"job {job_id} is not under way: it is {stored.state}")
        if answer["answer"] == "ended":
            raise Refused(f"job {job_id} has ended: it is {answer['state']}")
        return "canceled"

    def resubmit_job(
        self,
        job_id: str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> str:
        """Bring a failed, unprocessable or canceled job back to waiting, behind those that wait.

        Its retry count is kept: one whose retries are used up runs once more, and not four times. An
        expiry that has passed is dropped. It runs with the arguments it was sent with, also where
        ``coordinator_redact`` keeps parts of them from being shown.

        Args:
            job_id: the job.
            args: its positional arguments from now on; by default as they were.
            kwargs: keyword arguments that are added or replaced.
            reason, by: kept in the log.

        Returns:
            ``waiting``, or ``dispatched`` when it starts at once.

        Raises:
            UnknownJob: no such job; the message says when it may have been pruned.
            Refused: it is under way, or completed.
            InvalidValue: the new arguments lead to a name that cannot be one.
        """
        stored = self._stored(job_id)
        answer = self._resubmit(stored, args, kwargs, reason, by or default_author())
        if answer["answer"] == "active":
            raise Refused(f"job {job_id} is under way: it is {answer['state']}")
        if answer["answer"] == "ended":
            raise Refused(f"job {job_id} is {answer['state']}: submit it again as a new job")
        return str(answer["state"])

    def _resubmit(
        self,
        stored: StoredJob,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        reason: str,
        by: str,
    ) -> dict[str, Any]:
        job = _unexpired(dataclasses.replace(stored.job, due_ms=0))
        if args is not None or kwargs is not None:
            if self.application is None:
                raise Refused(
                    "arguments are edited by the Celery app: coordinate(app) has none here"
                )
            job = self.application.rewritten(job, args, kwargs)
        row = "" if job.message == stored.job.message else json.dumps(dataclasses.asdict(job))
        counts = stored.attempts, stored.losses
        return self.ledger.resubmit(job, _known(stored), counts, row, by=by, reason=reason)

    def _stored(self, job_id: str) -> StoredJob:
        stored = self.store.stored([job_id]).get(job_id)
        if stored is None:
            raise self.unknown_job(job_id)
        return stored

    def _running(self, job_id: str, answer: Mapping[str, Any]) -> str:
        if answer["answer"] == "gone":
            raise Refused(f"job {job_id} does not run: it is {self._stored(job_id).state}")
        if answer["answer"] in ("ended", "idle"):
            raise Refused(f"job {job_id} does not run: it is {answer['state']}")
        return "stopping"


def _known(stored: StoredJob) -> tuple[str, int, int]:
    return stored.state.value, stored.epoch, stored.version


def _unexpired(job: Job) -> Job:
    """Return the job without an expiry that has passed: it would end again before it could start."""
    if not job.expires_ms or job.expires_ms > time.time() * 1000:
        return job
    payload = json.loads(job.message + "}}")
    payload["headers"]["expires"] = None
    # The headers stay last, so that the token can be appended.
    headers = payload.pop("headers")
    return dataclasses.replace(
        job, expires_ms=0, message=json.dumps({**payload, "headers": headers})[:-2]
    )

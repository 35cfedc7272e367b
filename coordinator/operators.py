"""What operators do: to jobs, to queues, to limits. Each action is audited with who and why."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING

from coordinator.errors import InvalidValue, Refused, UnknownJob
from coordinator.records import Records
from coordinator.resources import SERIAL_RESOURCE, model_resource, queue_resource

if TYPE_CHECKING:
    from coordinator.store import Pruned


def default_author() -> str:
    """Return who acts when nobody says so: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Operators(Records):
    """The operators' verbs of the work queue."""

    def cancel_job(self, job_id: str, reason: str = "", by: str | None = None) -> str:
        """Cancel a job wherever it is; a running one is stopped first.

        Returns:
            ``canceled``, or ``stopping`` while a running job is being ended.

        Raises:
            UnknownJob: no such job.
            Refused: it has ended.
        """
        answer = self.ledger.cancel(job_id, reason or "canceled", by or default_author())
        if answer["answer"] == "gone":
            row = self.store.job(job_id)
            if row is None:
                raise UnknownJob(f"no job {job_id} is known")
            raise Refused(f"job {job_id} has ended: it is {row['state']}")
        if answer["answer"] == "ended":
            raise Refused(f"job {job_id} has ended: it is {answer['state']}")
        return "canceled" if answer["answer"] == "done" else "stopping"

    def release_job(self, job_id: str, reason: str | None = None, by: str | None = None) -> str:
        """Stop a running job and put it back to waiting, without counting the run against it.

        Raises:
            UnknownJob: no such job in the ledger.
            Refused: it does not run.
        """
        answer = self.ledger.release(job_id, reason or "released", by or default_author())
        if answer["answer"] == "gone":
            raise UnknownJob(f"no running job {job_id} is known")
        if answer["answer"] in ("ended", "idle"):
            raise Refused(f"job {job_id} does not run: it is {answer['state']}")
        return "stopping"

    def pause(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        reason: str = "",
        by: str | None = None,
        until_ms: int | None = None,
    ) -> str:
        """Hold a queue, a model or everything; nothing of it starts after this returned.

        Args:
            queue, model: what to hold; neither holds everything.
            reason, by: shown to everybody who asks why.
            until_ms: when it ends by itself, Unix milliseconds.

        Returns:
            The name of the held resource.
        """
        resource = self._resource(queue, model)
        author = by or default_author()
        self.ledger.hold(resource, author, reason, until_ms)
        return resource

    def resume(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> bool:
        """End a pause; False when there was none."""
        return self.ledger.resume(self._resource(queue, model), by or default_author(), reason)

    def _resource(self, queue: str | None, model: str | None) -> str:
        if queue is not None and model is not None:
            raise InvalidValue("model", model, "either a queue or a model")
        if model is not None:
            return model_resource(model)
        return SERIAL_RESOURCE if queue is None else queue_resource(queue)

    def limit(
        self,
        resource: str,
        value: int | None,
        *,
        reason: str = "",
        by: str | None = None,
        until_ms: int = 0,
    ) -> None:
        """Set the limit of a resource, or reset it to the configured one with None.

        Args:
            resource: such as ``model:ranker`` or ``queue:training``.
            value: its units from now on.
            reason, by: kept in the log.
            until_ms: when it ends by itself (Unix milliseconds); 0 is never.
        """
        self.ledger.limit(resource, value, by or default_author(), reason, until_ms)

    def prune(
        self,
        log_days: float | None = None,
        finished_days: float | None = None,
        *,
        reason: str = "",
        by: str | None = None,
    ) -> Pruned:
        """Remove old events and old finished jobs from the store, in small batches.

        Args:
            log_days, finished_days: ages; by default those of the settings.
            reason, by: kept in the log.
        """
        settings = self.settings
        return self.store.prune(
            settings.log_days if log_days is None else log_days,
            settings.finished_days if finished_days is None else finished_days,
            by=by or default_author(),
            reason=reason,
        )

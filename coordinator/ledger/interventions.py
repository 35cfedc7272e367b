"""What a person does to single jobs, beyond cancel and release; each is one script."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from coordinator.jobs import Job
from coordinator.ledger.jobs import described
from coordinator.ledger.scripts import Scripts


class Interventions(Scripts):
    """The verbs of operators about jobs; refusals are answers."""

    def fail(self, job_id: str, reason: str, by: str) -> dict[str, Any]:
        """Stop a running job and let it end as failed; see ``lua/cancel.lua`` for the answers."""
        return dict(self.run("cancel", job_id, "fail", reason, by, secrets.token_hex(8)))

    def remove(self, job_id: str, reason: str, by: str) -> dict[str, Any]:
        """Take a running job out before its death is confirmed; see ``lua/remove.lua``."""
        return dict(self.run("remove", job_id, reason, by, secrets.token_hex(8)))

    def resubmit(
        self,
        job: Job,
        stored: tuple[str, int, int],
        counts: tuple[int, int] = (0, 0),
        row: str = "",
        *,
        by: str,
        reason: str = "",
    ) -> dict[str, Any]:
        """Bring a job back that has ended without success; see ``lua/resubmit.lua``.

        Args:
            job: what it goes on as.
            stored: its state, epoch and version as the store has them.
            counts: its attempts and losses so far.
            row: the job as JSON when its definition changed.
            by, reason: kept in the log.
        """
        return dict(
            self.run(
                "resubmit",
                *described(job),
                *counts,
                *stored,
                row,
                by,
                reason,
                secrets.token_hex(8),
            )
        )

    def dismiss(
        self, job_id: str, stored: tuple[str, int, int], queue: str, reason: str, by: str
    ) -> dict[str, Any]:
        """Cancel a job that failed or is unprocessable; see ``lua/dismiss.lua``.

        Args:
            job_id: the job.
            stored: its state, epoch and version as the store has them.
            queue: its queue.
            reason, by: kept in the log.
        """
        nonce = secrets.token_hex(8)
        return dict(self.run("dismiss", job_id, *stored, queue, reason, by, nonce))

    def drain(self, job_ids: Sequence[str], until_ms: int, reason: str, by: str) -> list[str]:
        """Delay pending jobs, some dozens at once, until a moment (Unix milliseconds, Redis's clock).

        Returns:
            For each ``done``, ``later`` (due later anyway), ``gone`` or the state that is not pending.
        """
        return list(self.run("drain", until_ms, reason, by, *job_ids))

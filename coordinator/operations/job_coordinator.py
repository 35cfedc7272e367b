"""What runs now, in the words of applications that know of one active job."""

from __future__ import annotations

from typing import Any

from coordinator.operations.overview import Overview


class JobCoordinator:
    """What runs now.

    Args:
        overview: the work queue.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def get_active_job_state(self) -> Any:
        """Return active_job_id, active_job_type, active_models and started_at (Unix seconds).

        Returns:
            In serialized mode the one active job (or None); else all active jobs, the oldest first.

        Raises:
            LedgerUnavailable: Redis is away.
        """
        active = [
            {
                "active_job_id": job.id,
                "active_job_type": job.task,
                "active_models": list(job.models),
                "started_at": job.started_ms / 1000,
            }
            for job in self._overview.active()
        ]
        if self._overview.settings.serialized:
            return active[0] if active else None
        return active

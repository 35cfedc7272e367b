"""Revoking: what ``app.control.revoke`` does in a coordinated app."""

from __future__ import annotations

from typing import Any

from celery.utils.imports import symbol_by_name

from coordinator.states import RUNNING


class DurableRevoke:
    """Makes ``revoke`` durable: it also cancels the job, wherever it waits or runs. Before Celery's own class."""

    app: Any

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        plain: Any = super()
        if self.app.coordination.settings.observing:
            return plain.revoke(task_id, *args, **kwargs)
        ledger = self.app.coordination.work_queue.ledger
        left = []
        for job_id in [task_id] if isinstance(task_id, str) else list(task_id or ()):
            job = ledger.job(job_id)
            running = job is not None and job["state"] in RUNNING
            stays = job is None or (running and not kwargs.get("terminate"))
            if stays or ledger.cancel(job_id, "revoked", "celery")["answer"] != "done":
                left.append(job_id)
        # Workers remember what is revoked for hours. They need not know of a job that is canceled already,
        # and would drop it if somebody submits it again.
        if left or kwargs.get("reply") or task_id is None:
            return plain.revoke(left or task_id, *args, **kwargs)
        return None


def own_control(given: Any) -> Any:
    """Return what makes the control of an app, which calls it with the app when it first needs one.

    Args:
        given: the app's own class, or where it is.
    """

    def control(app: Any) -> Any:
        return type("Control", (DurableRevoke, symbol_by_name(given)), {})(app=app)

    return control

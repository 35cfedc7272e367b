"""A Flask app whose jobs share models; each job runs in Flask's application context."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task
from flask import Flask, current_app, request

from coordinator import coordinate, get_work_queue

flask_app = Flask(__name__)
flask_app.config.update(
    GREETING="trained by Flask",
    REDIS_URL=os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
)


class ContextTask(Task):
    """A task whose body has Flask's application context."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with flask_app.app_context():
            return super().__call__(*args, **kwargs)


celery_app = Celery(
    "flask_app",
    task_cls=ContextTask,
    broker=flask_app.config["REDIS_URL"],
    backend=flask_app.config["REDIS_URL"],
)
celery_app.conf.broker_connection_retry_on_startup = True
coordinate(celery_app)


@celery_app.task(models=["{model}"], org="{customer}")
def train(model: str, customer: str, seconds: float = 0.0) -> str:  # noqa: ARG001 - an option names it
    """Train a model for a customer."""
    time.sleep(seconds)
    return f"{model}: {current_app.config['GREETING']}"


@flask_app.post("/train/<model>")
def start(model: str) -> dict[str, str]:
    """Start a training."""
    job = train.delay(model, request.args["customer"], float(request.args.get("seconds", 0)))
    return {"job_id": str(job.id)}


@flask_app.get("/jobs/<job_id>")
def job(job_id: str) -> dict[str, str | None]:
    """Tell where a job stands, and what it waits for."""
    found = get_work_queue().get_job(job_id)
    why = get_work_queue().why(job_id) if found.status == "PENDING" else None
    return {"status": found.status, "reason": why.reason if why else None}

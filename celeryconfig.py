"""Settings: Celery's own, and the coordinator's with the prefix ``coordinator_``.

``broker_url`` and ``result_backend`` are left out on purpose: the coordinator sets them to its Redis, since
a job is admitted and published in one step there.
"""

from __future__ import annotations

# JSON only: a pickle from whoever can reach Redis would be code that runs.
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

timezone = "UTC"
enable_utc = True

# Named one by one, so that a worker started without -Q serves them all.
task_queues = {
    name: {"exchange": name, "routing_key": name}
    for name in ("selfplay", "training", "evaluation", "maintenance")
}
task_default_queue = "selfplay"
task_routes = {
    "tasks.selfplay.*": {"queue": "selfplay"},
    "tasks.training.*": {"queue": "training"},
    "tasks.evaluation.*": {"queue": "evaluation"},
    "tasks.tournament.*": {"queue": "evaluation"},
    "coordinator.*": {"queue": "maintenance"},
}

imports = (
    "tasks.selfplay",
    "tasks.training",
    "tasks.evaluation",
    "tasks.tournament",
    "tasks.shell",
    "tasks.call",
    "tasks.files",
    "tasks.workflows",
)

task_track_started = True
result_extended = True
# A result that cannot be stored while Redis restarts would turn a success into a failure.
result_backend_always_retry = True
worker_send_task_events = True
task_send_sent_event = True
broker_connection_retry_on_startup = True

coordinator_populator = "tasks.pipeline:plan"
coordinator_summary = "tasks.pipeline:summary"
coordinator_queues = {
    "selfplay": {"workers": 2},
    "training": {"workers": 1},
    "evaluation": {"workers": 1},
    "maintenance": {"workers": 1},
}

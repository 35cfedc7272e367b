"""The app under test: one task that does what its caller says, and one of each kind of task Celery has.

``create`` builds it for producers inside the test process; a worker finds it as ``tests.celery_app:app``,
built from the environment by ``tests.workers``.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from billiard import current_process
from celery import Celery, Task, shared_task, signature
from celery.exceptions import Ignore, Reject
from celery.worker.control import control_command
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue

from coordinator import NotRetryable, checkpoint, coordinate, current_job, progress
from tests.helpers import eventually

FOLDER, BROKER, SETTINGS = "TEST_FOLDER", "TEST_BROKER", "TEST_SETTINGS"

ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "NotRetryable": NotRetryable,
}


def note(task: Any, event: str, **info: Any) -> None:
    """Append one line to the trace of this run: written by the body, not by the coordinator."""
    job = current_job()
    line = {
        "id": task.request.id,
        "event": event,
        "at": time.monotonic(),
        "pid": os.getpid(),
        "retries": task.request.retries,
        "token": job.token if job else None,
        "models": list(job.models) if job else [],
        **info,
    }
    path = Path(task.app.conf.test_folder) / "trace" / str(task.request.id)
    # One write: lines of processes that append at once stay whole.
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


class Acts:
    """What ``play`` can be told to do; each act is a list of its name and its arguments."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def wait(self, gate: str) -> None:
        """Until the test opens the gate, or the job is stopped."""
        path = Path(self.task.app.conf.test_folder) / "gates" / gate

        def opened() -> bool:
            checkpoint()
            return path.exists()

        eventually(opened, timeout=30)

    def block(self, gate: str) -> None:
        """The same without a checkpoint."""
        path = Path(self.task.app.conf.test_folder) / "gates" / gate
        eventually(path.exists, timeout=30)

    def stammer(self, gate: str) -> None:
        """When told to end, begin a message to the main process and never say the rest."""

        def begin(*_: Any) -> None:
            os.write(current_process().outq._writer.fileno(), struct.pack("!i", 1000))
            note(self.task, "stammered")

        signal.signal(signal.SIGTERM, begin)
        self.block(gate)

    def give(self, value: Any) -> Any:
        return value

    def fail(self, error: str, text: str = "as told", times: int = 99) -> None:
        if self.task.request.retries < times:
            raise ERRORS[error](text)

    def retry(self, times: int = 1, eta: float | None = None, **options: Any) -> None:
        if self.task.request.retries < times:
            if eta is not None:
                options["eta"] = datetime.now(UTC) + timedelta(seconds=eta)
            if "exc" in options:
                options["exc"] = ERRORS[options["exc"]]("as told")
            self.task.retry(**{"countdown": 0, **options})

    def replace(self, canvas: dict[str, Any]) -> Any:
        return self.task.replace(signature(canvas, app=self.task.app))

    def ignore(self) -> None:
        raise Ignore

    def reject(self, requeue: bool, times: int = 1) -> None:
        job = current_job()
        if job is None or job.attempt <= times:
            raise Reject("as told", requeue=requeue)

    def die(self, times: int = 99) -> None:
        job = current_job()
        if job is None or job.attempt <= times:
            os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        raise SystemExit(1)

    def call(self, name: str, args: Iterable[Any] = (), **options: Any) -> str:
        return str(self.task.app.send_task(name, args, **options).id)

    def priority(self) -> Any:
        return self.task.request.delivery_info["priority"]

    def limits(self) -> Any:
        return self.task.request.timelimit

    def hang(self, times: int = 99) -> None:
        """Show no sign of life, in as many runs."""
        job = current_job()
        if job is None or job.attempt <= times:
            self.spin(30)

    def deaf(self, times: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.hang(times)

    def live(self, seconds: float) -> None:
        """Report progress all the time."""
        self._until(seconds, lambda: progress(1))

    def look(self, seconds: float) -> None:
        """Reach one checkpoint after the other."""
        self._until(seconds, checkpoint)

    def _until(self, seconds: float, do: Callable[[], None]) -> None:
        end = time.monotonic() + seconds

        def over() -> bool:
            do()
            return time.monotonic() > end

        eventually(over, seconds + 30)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass


def models_of(*_: Any, model: Any = None, **__: Any) -> list[str]:
    """What the callable option of ``play`` gets is the call itself."""
    if model is None:
        return []
    return [model] if isinstance(model, str) else list(model)


def play(self: Any, *acts: Any, **kwargs: Any) -> Any:
    """Do what the acts say; the last one's answer is the result."""
    note(self, "start", acts=acts, kwargs=kwargs)
    result = None
    try:
        for act in acts:
            if isinstance(act, list) and act and isinstance(act[0], str):
                name, *arguments = act
                named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
                if name == "replace":
                    arguments, named = [named], {}
                result = getattr(Acts(self), name)(*arguments, **named)
    finally:
        note(self, "end")
    return result


class Base(Task):
    """A base class as apps have it: of celery.Task, with hooks and a __call__ of its own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self, "call")
        return super().__call__(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(self, "before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        # Eager, Celery keeps no results and warns of who asks for them.
        stored = None if self.request.is_eager else self.AsyncResult(task_id).state
        note(self, "on_success", stored=stored)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(self, "on_failure")

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(self, "on_retry")

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        note(self, "after_return", status=status)


class Written(Base):
    """A task written as a class, with its options as attributes."""

    name = "written"
    models = ("{model}",)

    def run(self, model: str, *acts: Any) -> Any:
        return play(self, *acts)


class Asking(Task):
    """A task class whose option is a method."""

    name = "asking"

    def models(self, number: int, size: str = "small") -> str:
        return f"{self.name}-{size}-{number}"

    def run(self, number: int, size: str = "small") -> Any:
        note(self, "start")
        return number


class Replacing(Task):
    """Publishes its replacement long before its own run ends."""

    abstract = True

    def on_replace(self, sig: Any) -> Any:
        try:
            return super().on_replace(sig)
        finally:
            gate = Path(self.app.conf.test_folder) / "gates" / f"replaced-{self.request.id}"
            eventually(gate.exists, timeout=30)


@shared_task(name="shared", models="{name}")
def shared(name: str) -> str:
    return name


@control_command()
def deafen(worker: Any) -> dict[str, str]:
    """Let this worker fetch nothing any more: it answers, and takes nothing."""
    worker.consumer.task_consumer.channel.qos.can_fetch = lambda: False
    return {"ok": "deaf"}


def register(app: Celery) -> None:
    """Define the tasks."""
    # Not shared: the apps of a test process that have no code must not get it from those that have.
    task = partial(app.task, shared=False)
    quick = {"retry_delays": (0.0,)}
    task(name="play", bind=True, models=models_of, **quick)(play)
    task(name="hooked", bind=True, base=Base, models=models_of, **quick)(play)
    task(name="replacing", bind=True, base=Replacing, **quick)(play)
    task(name="late", bind=True, acks_late=True, models=models_of, **quick)(play)
    task(name="plain", bind=True, coordinated=False)(play)
    task(name="plain_late", bind=True, coordinated=False, acks_late=True)(play)
    task(name="slow", bind=True, rate_limit="1/s", models=models_of)(play)
    task(name="silent", bind=True, ignore_result=True)(play)
    task(name="once", bind=True, max_retries=0)(play)
    task(name="unretried", bind=True, autoretry_for=())(play)
    task(name="forever", bind=True, max_retries=None, **quick)(play)
    task(name="limited", bind=True, soft_time_limit=0.3)(play)
    task(name="killed", bind=True, time_limit=0.3, models=models_of)(play)
    task(name="template", bind=True, models=["{model}", "{kind}-{number}"], org="{model}")(
        _template
    )
    task(name="annotated", bind=True)(play)
    if find_spec("pydantic"):
        task(name="typed", pydantic=True, models="{game[model]}")(_typed())
    task(name="add", models=())(_add)
    task(name="total")(_total)
    task(name="told", bind=True)(_told)
    app.task(
        name="backing",
        bind=True,
        autoretry_for=(ValueError,),
        dont_autoretry_for=(KeyError,),
        retry_backoff=1,
        retry_backoff_max=1,
        retry_jitter=False,
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )(play)
    app.register_task(Written())
    app.register_task(Asking())


def _template(self: Any, model: str, number: int = 7, *, kind: str = "net") -> list[str]:
    job = current_job()
    return list(job.models) if job else []


def _typed() -> Any:
    def typed(game: Any) -> Any:
        return {"moves": game.moves + 1}

    # Celery reads the annotations, and pydantic is not a package every developer has.
    game = import_module("pydantic").create_model("Game", model=(str, ...), moves=(int, 1))
    typed.__annotations__ = {"game": game}
    return typed


def _add(x: int, y: int) -> int:
    return x + y


def _total(numbers: list[int]) -> int:
    return sum(numbers)


def _told(self: Any, *about: Any) -> str:
    note(self, "start", about=[str(item) for item in about])
    return "told"


class AppTask(Task):
    """An app's own task class."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self, "app")
        return super().__call__(*args, **kwargs)


def _queue(name: str, exchange: list[str]) -> Queue:
    if exchange[1] == "fanout":
        return Broadcast(exchange[0])
    return Queue(name, Exchange(exchange[0], exchange[1]), routing_key=exchange[2])


def create(
    broker: str | None, folder: Path, coordinated: bool = True, code: bool = True, **conf: Any
) -> Celery:
    """Return an app.

    Args:
        broker: its Redis.
        folder: of its database, its traces and its gates.
        coordinated: whether it is coordinated, or a plain client of the same broker.
        code: whether it has the code of the tasks.
        conf: settings; ``task_cls`` is the app's task class.
    """
    own = {"task_cls": conf.pop("task_cls")} if "task_cls" in conf else {}
    app = Celery("tests", set_as_current=False, **own)
    app.conf.update(
        broker_url=broker,
        result_backend=broker,
        task_default_queue="work",
        result_extended=True,
        worker_hijack_root_logger=True,
        broker_connection_retry_on_startup=True,
        test_folder=str(folder),
        task_annotations={"annotated": {"models": "annotated-model"}},
    )
    if coordinated:
        app.conf.update(
            coordinator_database_url=f"sqlite:///{folder}/jobs.db",
            coordinator_data_dir=str(folder),
        )
    app.conf.update(conf)
    if "test_exchanges" in conf:
        app.conf.task_queues = [_queue(*item) for item in conf["test_exchanges"].items()]
    for name in ("trace", "gates"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if coordinated:
        coordinate(app)
    if code:
        register(app)
    return app


app: Celery | None = None
if FOLDER in os.environ:
    app = create(
        os.environ[BROKER],
        Path(os.environ[FOLDER]),
        **json.loads(os.environ.get(SETTINGS, "{}")),
    )
    app.set_current()

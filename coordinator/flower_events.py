"""What Flower cannot see by itself: jobs that wait in the ledger, told through Celery's own events.

A job that waits has sent ``task-sent`` and nothing since: for Flower it is PENDING, like one that was lost. So one
elected process says which jobs are BLOCKED and DELAYED, with the reason as result until there is a real one, and how
those ended that no worker had. It reads the store, by index and a page at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps, states
from kombu.exceptions import OperationalError

from coordinator.errors import CoordinatorError
from coordinator.states import FINAL, State

if TYPE_CHECKING:
    from coordinator.ledger import Ledger
    from coordinator.store import Store

logger = logging.getLogger("coordinator")

NAME = "flower-events"

#: Seconds between two looks, and for how long nobody else looks.
LOOK_SECONDS, TERM_MS = 3.0, 10_000

#: Seconds after which all is said again: a Flower that was started since has heard nothing.
AGAIN_SECONDS = 120.0

#: Jobs of each state told in one look, and of those that wait longest; so many are remembered until they end.
#: To tell a hundred thousand again and again took more than all else that an idle installation does.
PAGE, MOST, REMEMBERED = 200, 1000, 2000

#: Events in one message at most.
TOGETHER = 50

#: Milliseconds for which the page ends before a row that the recorder has not come to yet.
YOUNG_MS = 5000

#: Celery's states of events, by that of a waiting job.
_WORDS = {State.WAITING.value: "blocked", State.DELAYED.value: "delayed"}

_FINAL = frozenset(state.value for state in FINAL)


class FlowerEvents:
    """Tells what waits.

    Args:
        ledger: elects who tells.
        store: what is told.
        send: sends an event: its type and its fields.
        holder: this process among those that may be elected.
    """

    def __init__(self, ledger: Ledger, store: Store, send: Any, holder: str) -> None:
        self.ledger, self.store, self.send, self.holder = ledger, store, send, holder
        #: Up to where each state was told.
        self._cursors: dict[str, tuple[int, str]] = {}
        self._told: OrderedDict[str, str] = OrderedDict()
        self._began_at = 0.0
        self._numbers: dict[str, int] = {}
        #: The ledger's last event at the last two looks: what is told is read where it is recorded a moment later.
        self._seen: tuple[object, object] = (None, None)

    def tick(self) -> int:
        """Tell what is new; return the number of events.

        Raises:
            LedgerUnavailable, StoreUnavailable: not now.
        """
        if not self.ledger.elect(NAME, self.holder, TERM_MS):
            self._begin_again()
            return 0
        if time.monotonic() - self._began_at >= AGAIN_SECONDS:
            self._began_at = time.monotonic()
            self._begin_again()
        last = self.ledger.last_event()
        quiet, self._seen = self._seen == (last, last), (self._seen[1], last)
        sent = 0 if quiet else self._follow()
        for state, word in _WORDS.items():
            if self._numbers.get(state, 0) >= MOST:
                continue
            rows = self.store.jobs(
                states=[state], limit=PAGE, cursor=self._cursors.get(state), oldest_first=True
            )
            for row in rows:
                # Until the ledger's first event is recorded a row says waiting of a job that may run already.
                if not row["version"] and time.time() * 1000 - row["queued_at"] < YOUNG_MS:
                    break
                self._cursors[state] = row["sequence"], row["job_id"]
                self._numbers[state] = self._numbers.get(state, 0) + 1
                # What Celery shows as RETRY stays so: it has the error.
                if row["version"] and not row["retries"]:
                    self.send(f"task-{word}", **_fields(row, _reason(row)))
                    self._told[row["job_id"]] = state
                    sent += 1
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return sent

    def resign(self) -> None:
        """Give up the term, so that another one need not wait for its end."""
        self.ledger.resign(NAME, self.holder)

    def _begin_again(self) -> None:
        # Together: what was told counts against what may be told.
        self._cursors.clear()
        self._numbers.clear()

    def _follow(self) -> int:
        """Tell how those ended that no worker had: it would have told the others."""
        sent = 0
        rows = self.store.standing(list(self._told))
        for job_id in list(self._told):
            row = rows.get(job_id)
            if row is not None and row["state"] == self._told[job_id]:
                continue
            del self._told[job_id]
            if row is None or row["state"] not in _FINAL or row["started_at"] is not None:
                continue
            fields = {"uuid": job_id, "result": None}
            if row["state"] == State.CANCELED:
                self.send("task-revoked", **fields, terminated=False, signum=None, expired=False)
            else:
                self.send("task-failed", **fields, exception=row["error"] or "", traceback="")
            sent += 1
        return sent


def _reason(row: Mapping[str, Any]) -> str:
    models = row["required_models"] or ()
    shown = f" (models: {', '.join(models)})" if models else ""
    if row["state"] == State.DELAYED.value:
        return f"due {_moment(row['due_at'])}{shown}"
    return f"{row['conflict_reason'] or 'waits for its turn'}{shown}"


def _fields(row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {
        "uuid": row["job_id"],
        "name": row["task"],
        "args": row["args_repr"],
        "kwargs": row["kwargs_repr"],
        "retries": row["retries"],
        "root_id": row["root_id"] or row["job_id"],
        "parent_id": row["parent_id"],
        "eta": _moment(row["due_at"]) if row["due_at"] else None,
        "result": reason,
    }


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


class FlowerStep(bootsteps.StartStopStep):
    """Tells Flower from workers of the maintenance queue; in an app without that queue from any."""

    requires = ("coordinator.running.worker:RecorderStep",)

    def __init__(self, controller: Any, **kwargs: Any) -> None:
        super().__init__(controller, **kwargs)
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, controller: Any) -> None:
        app = controller.app
        queues = app.amqp.queues
        elsewhere = "maintenance" in queues and "maintenance" not in queues.consume_from
        if elsewhere or not app.coordination.settings.flower_events:
            return
        self.thread = threading.Thread(
            target=self._tell, args=(app, controller.hostname), name=NAME, daemon=True
        )
        self.thread.start()

    def _tell(self, app: Celery, node: str) -> None:
        troubled = False
        while not self.over.wait(LOOK_SECONDS):
            try:
                queue = app.coordination.work_queue
                with (
                    app.connection_for_write() as connection,
                    # As Celery's own workers do: one message an event takes ten times the CPU.
                    app.events.Dispatcher(
                        connection,
                        hostname=node,
                        enabled=True,
                        buffer_group=frozenset({"task"}),
                        buffer_limit=TOGETHER,
                    ) as dispatcher,
                ):
                    events = FlowerEvents(queue.ledger, queue.store, dispatcher.send, node)
                    troubled = False
                    self._look(events, dispatcher.flush)
            except (CoordinatorError, OperationalError, OSError) as error:
                if not troubled:
                    logger.warning("[COORDINATOR] Flower is not told what waits: %s", error)
                troubled = True

    def _look(self, events: FlowerEvents, flush: Callable[[], None]) -> None:
        while not self.over.wait(LOOK_SECONDS):
            events.tick()
            flush()
        events.resign()

    def stop(self, _: Any) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join(timeout=5)

    terminate = stop


def known_states(words: Iterable[str] = _WORDS.values()) -> None:
    """Have Celery's state of events, which Flower shows, know these states as ones before RECEIVED.

    It takes an unknown state for one after STARTED, and would show a job as blocked while it runs.
    """
    for word in words:
        states.PRECEDENCE_LOOKUP[word.upper()] = states.PRECEDENCE_LOOKUP[states.PENDING]


def install(app: Celery) -> None:
    """Add it to the workers of an app, and its states to this process."""
    known_states()
    app.steps["worker"].add(FlowerStep)

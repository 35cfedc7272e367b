"""Workers: who is there, what each has done, how many slots a queue has; told to take nothing new, or more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.author import default_author
from coordinator.errors import CoordinatorError, InvalidValue, Refused, StoreUnavailable
from coordinator.holds import Holds
from coordinator.resources import check_limit, queue_resource

if TYPE_CHECKING:
    from coordinator.store import StoredWorker

logger = logging.getLogger("coordinator")

#: Seconds for the answers of workers, between two looks at their slots, and until all slots are as wanted.
ANSWER_SECONDS, LOOK_SECONDS, SCALE_SECONDS = 5.0, 0.25, 15.0

_COUNTS = ("assigned", "completed", "failed")


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker.

    Attributes:
        node: Celery's name for it; ``id`` tells its process from all others.
        state: ``live``, ``draining`` (takes nothing new), ``idle`` (answers, and takes nothing although messages
            wait), ``left`` (shut down in order), ``expired`` (its lease ended) or ``silent`` (known to the store
            alone).
        last_heartbeat: Unix seconds; ``age`` are the seconds since then.
        queues, slots: what it consumes, and jobs it runs at once.
        jobs: ids of those that it runs now.
        assigned, completed, failed: runs it has begun, and how they ended.
        pulled: messages it has fetched; None of a worker that is gone.
        pull_failures: claims that were refused to it: the message was stale, or its job paused meanwhile.
        idle_seconds: for how long it takes nothing although messages wait.
        versions: of what it runs on, by name.
        reason: why it is gone.
    """

    node: str
    id: str
    state: str
    last_heartbeat: float
    age: float
    queues: tuple[str, ...]
    slots: int
    jobs: tuple[str, ...]
    assigned: int
    completed: int
    failed: int
    pulled: int | None
    pull_failures: int | None
    idle_seconds: int
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class QueueScale:
    """The slots of a queue.

    Attributes:
        queue: its name.
        before, wanted, after: the slots of its workers; fewer than wanted may have ended yet.
        workers: slots by node, as they were asked for.
        errors: what workers answered that cannot be scaled, by node.
        limit: jobs the queue may run at once over all workers, None without a limit.
        dry_run: whether it is a preview.
    """

    queue: str
    before: int
    wanted: int
    after: int
    workers: Mapping[str, int]
    errors: Mapping[str, str]
    limit: int | None
    dry_run: bool

    @property
    def done(self) -> bool:
        """Whether the slots are as wanted."""
        return self.after == self.wanted


class Workers(Holds):
    """The verbs of workers."""

    def get_workers(self, inactive: bool = True) -> list[WorkerRecord]:
        """Return the workers, by name: live ones, and those that are gone and not forgotten.

        Args:
            inactive: whether those that are gone are told of, too.

        Raises:
            LedgerUnavailable: not now. With the database away live workers are told of alone.
        """
        now = self.ledger.clock()
        try:
            stored = {one.worker: one for one in self.store.workers()}
        except StoreUnavailable as error:
            logger.warning("[COORDINATOR] live workers alone: %s", error)
            stored = {}
        found = [_live(one, stored.get(one["id"]), now) for one in self.ledger.workers()]
        live = {one.id for one in found}
        if inactive:
            found += [_gone(one, now) for one in stored.values() if one.worker not in live]
        return sorted(found, key=lambda one: (one.node, -one.last_heartbeat, one.id))

    def clear_inactive_workers(
        self,
        threshold_seconds: float = 0.0,
        *,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Forget workers that are gone; what they have done stays in the log.

        Args:
            threshold_seconds: only those without a heartbeat for so long.
            reason, by: kept in the log.
            dry_run: whether only to count.

        Returns:
            Their number.

        Raises:
            InvalidValue: a negative time.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        if not threshold_seconds >= 0:
            raise InvalidValue("threshold_seconds", threshold_seconds, "a number of seconds from 0")
        self.catch_up()
        now = self.ledger.clock()
        gone = self.store.inactive_workers(threshold_seconds, now)
        if dry_run or not gone:
            return len(gone)
        number = self.store.forget_workers(threshold_seconds, now)
        nodes = [one.node for one in gone][:100]
        author = by or default_author()
        self.store.note(
            "workers_forgotten", author, reason, data={"workers": nodes, "number": number}
        )
        return number

    def drain_worker(self, node: str, *, reason: str = "", by: str | None = None) -> None:
        """Let a worker take nothing new; what it runs goes on, and the ledger counts on none of its slots.

        Until ``resume_worker``, or until it is restarted.

        Args:
            node: its name.
            reason, by: kept in the log.

        Raises:
            InvalidValue: no live worker has this name.
            Refused: it does not answer.
        """
        self._tell(node, "drain_worker", "worker_drained", reason, by)
        self._await(node, draining=True)

    def resume_worker(self, node: str, *, reason: str = "", by: str | None = None) -> None:
        """Let a drained worker take jobs again.

        Args:
            node: its name.
            reason, by: kept in the log.

        Raises:
            As ``drain_worker``.
        """
        self._tell(node, "resume_worker", "worker_resumed", reason, by)
        self._await(node, draining=False)

    def scale_queue(
        self,
        queue: str,
        count: int,
        *,
        reason: str = "",
        by: str | None = None,
        dry_run: bool = False,
        seconds: float = SCALE_SECONDS,
    ) -> QueueScale:
        """Change how many slots the live workers of a queue have, while they run.

        They share the number evenly. No running job is ended: a process that is busy goes when its job has
        ended, if that is within ``seconds``; else call again. A worker that is restarted begins with the slots it
        was configured with, and slots of a worker of several queues serve them all.

        Args:
            queue: the queue.
            count: slots, at least one for each of its workers.
            reason, by: kept in the log.
            dry_run: whether only to tell how it would be shared.
            seconds: to wait at most.

        Raises:
            InvalidValue: an unknown queue, or too few slots.
            Refused: no live worker consumes the queue.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        self.check_queue(queue)
        check_limit("count", count, least=1)
        slots = self._slots(queue)
        if not slots:
            raise Refused(
                f"no live worker takes jobs of queue {queue}: "
                f"coordinator up, or celery -A APP worker -Q {queue}"
            )
        if count < len(slots):
            allowed = (
                f"at least {len(slots)}: one slot for each worker; coordinator workers drain NODE"
            )
            raise InvalidValue("count", count, allowed)
        share, more = divmod(count, len(slots))
        wanted = {node: share + (n < more) for n, node in enumerate(sorted(slots))}
        limit = self.ledger.limits([queue_resource(queue)])[queue_resource(queue)].value
        before = sum(slots.values())
        if dry_run:
            return QueueScale(queue, before, count, before, wanted, {}, limit, True)
        errors, after = self._scaled(queue, wanted, seconds)
        self.store.note(
            "scaled",
            by or default_author(),
            reason,
            resource=queue_resource(queue),
            before=f"{before} slots",
            after=f"{after} slots",
            data={"wanted": count, "workers": wanted},
        )
        return QueueScale(queue, before, count, after, wanted, errors, limit, False)

    def _scaled(
        self, queue: str, wanted: Mapping[str, int], seconds: float
    ) -> tuple[dict[str, str], int]:
        errors: dict[str, str] = {}
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while True:
            slots = self._slots(queue)
            late = {
                node: number
                for node, number in wanted.items()
                if slots.get(node) != number and node in slots and node not in errors
            }
            if not late or time.monotonic() > deadline:
                return errors, sum(slots.values())
            for node, number in late.items():
                answer = self._call("scale_pool", [node], {"slots": number}).get(node)
                if answer is None:
                    errors[node] = "it did not answer"
                elif "error" in answer:
                    errors[node] = str(answer["error"])
            # Its slots are what it reports, once a second.
            pause.wait(4 * LOOK_SECONDS)

    def _slots(self, queue: str) -> dict[str, int]:
        return {
            one.node: one.slots
            for one in self.get_workers(inactive=False)
            if queue in one.queues and one.state != "draining"
        }

    def _tell(self, node: str, command: str, verb: str, reason: str, by: str | None) -> None:
        nodes = sorted({one.node for one in self.get_workers(inactive=False)})
        if node not in nodes:
            raise InvalidValue("worker", node, "one of " + (", ".join(nodes) or "none"), nodes)
        answer = self._call(command, [node], {}).get(node)
        if answer is None or "error" in answer:
            said = "it did not answer" if answer is None else answer["error"]
            raise Refused(f"worker {node}: {said}")
        self.store.note(verb, by or default_author(), reason, data={"worker": node})

    def _await(self, node: str, draining: bool) -> None:
        # It says so with its next renewal: then nothing is dispatched to it any more.
        deadline, pause = time.monotonic() + ANSWER_SECONDS, threading.Event()
        while time.monotonic() < deadline:
            states = {one.node: one.state for one in self.get_workers(inactive=False)}
            if (states.get(node) == "draining") == draining:
                return
            pause.wait(LOOK_SECONDS)
        raise Refused(f"worker {node} has not said so yet: coordinator workers")

    def _call(
        self, command: str, nodes: Sequence[str], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        if self.application is None:
            raise CoordinatorError(
                "workers are told by the Celery app: coordinate(app) has none here"
            )
        return self.application.control(command, nodes, arguments, ANSWER_SECONDS)


def _live(report: Mapping[str, Any], stored: StoredWorker | None, now: int) -> WorkerRecord:
    idle, seen = int(report.get("idle_seconds") or 0), int(report.get("seen") or 0)
    draining = bool(report.get("draining"))
    # What the ledger counts begins anew with each epoch, what the store has is some seconds old.
    assigned, completed, failed = (
        max(int(report.get(name) or 0), getattr(stored, name) if stored else 0) for name in _COUNTS
    )
    queues = str(report.get("pool") or "").split()
    return WorkerRecord(
        str(report.get("node") or report["id"].partition("/")[0]),
        str(report["id"]),
        "draining" if draining else ("idle" if idle else "live"),
        seen / 1000,
        max(0.0, (now - seen) / 1000),
        tuple(queues),
        int(report.get("slots") or 0),
        tuple(report.get("jobs") or ()),
        assigned,
        completed,
        failed,
        pulled=int(report.get("pulled") or 0),
        pull_failures=int(report.get("refused") or 0),
        idle_seconds=idle,
        versions=stored.versions if stored else {},
    )


def _gone(stored: StoredWorker, now: int) -> WorkerRecord:
    return WorkerRecord(
        stored.node,
        stored.worker,
        # Its end was noticed and is not recorded yet, or Redis was wiped and it has not reported since.
        "silent" if stored.state == "live" else stored.state,
        stored.last_heartbeat / 1000,
        max(0.0, (now - stored.last_heartbeat) / 1000),
        stored.queues,
        stored.slots,
        (),
        stored.assigned,
        stored.completed,
        stored.failed,
        None,
        None,
        0,
        stored.versions,
        stored.reason,
    )

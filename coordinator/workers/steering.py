"""Workers that are told to take nothing new, or to work with more or fewer slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.author import default_author
from coordinator.errors import CoordinatorError, InvalidValue, NoWorker, Refused
from coordinator.operations.holds import no_worker_text
from coordinator.resources import check_limit, queue_resource
from coordinator.workers.listing import WorkerListing
from coordinator.workers.records import QueueScale

#: Seconds for the answers of workers, between two looks at their slots, and until all slots are as wanted.
ANSWER_SECONDS, LOOK_SECONDS, SCALE_SECONDS = 5.0, 0.25, 15.0


class Workers(WorkerListing):
    """The verbs of workers."""

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
            NoWorker: no live worker consumes the queue.
            LedgerUnavailable, StoreUnavailable: not now.
        """
        self.check_queue(queue)
        check_limit("count", count, least=1)
        slots = self._slots(queue)
        if not slots:
            raise NoWorker(f"queue {queue} has {no_worker_text(queue)}")
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

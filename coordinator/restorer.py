"""Restore: builds the ledger again after Redis was wiped, restarted or failed over.

Redis is an index. What was accepted is in the store; what runs is known to the workers, whose renewals
bring it back. The order: the events that survived are recorded first, since a finished job that the store
does not know yet must not run again; then a new epoch is opened, whose tokens are greater than all before;
then everything unfinished is entered again, at its old place; and admission opens when the workers that
were known have reported, or one lease has passed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psutil

from coordinator.jobs import Event
from coordinator.ledger import Ledger
from coordinator.settings import Settings

if TYPE_CHECKING:
    from coordinator.store import Store

logger = logging.getLogger("coordinator")

BATCH = 500

#: How long one process has for a restore before another may try, in milliseconds.
TERM_MS = 60_000

Record = Callable[[Sequence[Event]], None]


class Restorer:
    """Opens a new epoch of the ledger.

    Args:
        ledger, store, settings: of this installation.
        record: writes surviving events to the store.
        holder: who restores, unique to this process.
    """

    def __init__(
        self, ledger: Ledger, store: Store, settings: Settings, record: Record, holder: str
    ) -> None:
        self.ledger, self.store, self.settings = ledger, store, settings
        self.record, self.holder = record, holder

    def ensure_open(self) -> bool:
        """Restore if the ledger has no epoch for this life of Redis; False while somebody else does.

        Raises:
            LedgerUnavailable, StoreUnavailable: not now; the ledger stays closed.
        """
        if self.ledger.epoch() is not None:
            return True
        if not self.ledger.elect("restore", self.holder, TERM_MS):
            return False
        try:
            if self.ledger.epoch() is None:
                self.restore()
        finally:
            self.ledger.resign("restore", self.holder)
        return True

    def restore(self) -> int:
        """Build the ledger again; returns the number of jobs entered."""
        self._record_survivors()
        workers = self.ledger.known_workers()
        self.ledger.wipe()
        epoch = self.store.open_epoch()
        self.ledger.open(epoch, "building")
        self.ledger.run("build", "configure", *_pairs(configured(self.settings)))
        self._operator_settings()
        entered = 0
        after = None
        while True:
            page = (
                self.store.unfinished(limit=BATCH)
                if after is None
                else self.store.unfinished(after, BATCH)
            )
            if not page:
                break
            after = page[-1].cursor
            self.ledger.restore(page)
            self.ledger.elect("restore", self.holder, TERM_MS)
            workers.update(item.worker for item in page if item.worker and item.state == "running")
            entered += len(page)
            logger.info("[COORDINATOR] restore: %d jobs entered", entered)
        # Those whose process on this machine is gone will not report: nobody needs to wait for them.
        gone = {worker for worker in workers if is_gone(worker)}
        awaited = sorted(workers - gone)
        self.ledger.open_for_workers(awaited)
        for worker in gone:
            self.ledger.leave(worker, "its process is gone")
        logger.info(
            "[COORDINATOR] epoch %d is open with %d jobs; %d workers are awaited",
            epoch,
            entered,
            len(awaited),
        )
        return entered

    def _record_survivors(self) -> None:
        while events := self.ledger.read_events(BATCH):
            self.record(events)
            self.ledger.forget_events(events[-1].event_id)

    def _operator_settings(self) -> None:
        for setting in self.store.settings():
            until = setting.until_ms or 0
            if setting.kind == "hold":
                self.ledger.run(
                    "build", "hold", setting.resource, setting.by, setting.reason or "", until
                )
            elif setting.kind in ("limit", "override"):
                self.ledger.run("build", "limit", setting.resource, setting.value, until)


def worker_identity(node: str, pid: int | None = None) -> str:
    """Return the id of a worker: ``node/host/pid/start``.

    It says which process of which machine it is, so that whoever finds it, in the ledger or in the store,
    can tell whether that process is gone.

    Args:
        node: Celery's node name.
        pid: the main process; by default this one.
    """
    process = psutil.Process(pid)
    return f"{node}/{socket.gethostname()}/{process.pid}/{int(process.create_time())}"


def is_gone(worker: str) -> bool:
    """Whether a worker was a process of this machine that is no more."""
    try:
        _, host, pid, start = worker.rsplit("/", 3)
        if host != socket.gethostname():
            return False
        # A process of the same number that began later is another one.
        return bool(abs(psutil.Process(int(pid)).create_time() - int(start)) > 2)
    except psutil.NoSuchProcess:
        return True
    except (psutil.AccessDenied, ValueError):
        return False


def configured(settings: Settings) -> dict[str, str]:
    """Return the limits and times of the settings as the ledger keeps them."""
    lease = str(int(settings.lease_seconds * 1000))
    values = {
        "model": str(settings.default_models_limit),
        "serial": "1" if settings.serialized else "",
        "lease_ms": lease,
        "claim_ms": lease,
    }
    for name, queue in settings.queues.items():
        values[f"queue:{name}"] = str(queue.max_concurrency)
        values[f"org:{name}"] = str(queue.org_limit)
    values["org"] = str(settings.queue("").org_limit)
    return values


def _pairs(values: dict[str, str]) -> list[str]:
    return [part for pair in values.items() for part in pair]

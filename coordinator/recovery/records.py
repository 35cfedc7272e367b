"""The two records of an installation, opened when they are first used."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coordinator.embedded import redis_url
from coordinator.errors import Refused, UnknownJob
from coordinator.identity import holder
from coordinator.jobs import Event, Job
from coordinator.ledger import Ledger
from coordinator.recovery.restorer import Restorer, configured
from coordinator.recovery.roster import versions
from coordinator.settings import Settings

if TYPE_CHECKING:
    from coordinator.store import Store
    from coordinator.workflows import Plan, Workflow


def open_store(settings: Settings) -> Store:
    """Return the store of an installation; it connects with its first verb, and its tables may be missing."""
    # Imported when it is needed: SQLAlchemy takes longer to import than all the rest.
    from coordinator.store import Store

    return Store(
        settings.store_url,
        settings.table_prefix,
        redact=settings.redact,
        synchronous=settings.sqlite_synchronous,
    )


class Application(Protocol):
    """What the work queue needs of the Celery app it belongs to."""

    def recorder(self, holder: str) -> Any:
        """Return a recorder that delivers results through the app."""

    def queues(self) -> Collection[str]:
        """Return the names of the managed queues that the app declares."""

    def declares(self, queue: str) -> bool:
        """Whether a queue is one of the app's; every one is when it declares none."""

    def rewritten(
        self, job: Job, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> Job:
        """Return a job with other arguments; see ``message.rewritten``."""

    def workflows(self) -> Mapping[str, Workflow]:
        """Return the workflows of the app by name."""

    def planned(
        self, workflow: Workflow, inputs: Mapping[str, Any], execution_id: str, trusted: bool
    ) -> Plan:
        """Return the plan of an execution, all its steps checked; see ``steps.planned``."""

    def step_job(self, plan: Plan) -> Job:
        """Return the job of a plan's step; see ``steps.step_job``."""

    def control(
        self, command: str, nodes: Sequence[str], arguments: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Have workers carry out a remote control command; return the answers by node."""


class Records:
    """Ledger and store of one installation.

    Args:
        settings: the installation's settings.

    Attributes:
        application: the Celery app's side; None for a work queue that was made by hand.
    """

    application: Application | None = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._store: Store | None = None

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._check_enforcing()
            with self._lock:
                if self._ledger is None:
                    settings = self.settings
                    self._ledger = Ledger(redis_url(settings), settings.key_prefix)
        return self._ledger

    @property
    def store(self) -> Store:
        if self._store is None:
            self._check_enforcing()
            with self._lock:
                if self._store is None:
                    store = open_store(self.settings)
                    store.upgrade()
                    self._store = store
        return self._store

    @property
    def has_store(self) -> bool:
        """Whether this process has opened the store, and so has paid for it."""
        return self._store is not None

    def _check_enforcing(self) -> None:
        # A pause that pauses nothing would be taken for one.
        if self.settings.observing:
            raise Refused(
                "coordinator_mode is observe: nothing is enforced, so there is nothing to look at or to change; "
                "coordinator conflicts tells what would have waited"
            )

    def unknown_job(self, job_id: str) -> UnknownJob:
        """Return the error that tells that a job is not known."""
        return UnknownJob(f"no job {job_id!r} is known: it never was, or ended and was pruned")

    def ensure_open(self) -> bool:
        """Restore the ledger if it is of another life of Redis; False while somebody else does."""
        if self.ledger.epoch() is not None:
            return True
        restorer = Restorer(self.ledger, self.store, self.settings, self._record, holder())
        return restorer.ensure_open()

    def enrol(self, worker: str, queues: Sequence[str], slots: int) -> None:
        """Note in the store a worker that is about to take work; see ``Enrolment``.

        Raises:
            LedgerUnavailable, StoreUnavailable: a restore would not know that it has to wait for it.
        """
        self.store.enrol_worker(worker, queues, slots, versions(), self.ledger.clock())

    def configure(self) -> None:
        """Bring the settings of this process to the ledger; what an operator set stays."""
        self.ledger.configure(configured(self.settings), complete=True)

    def _record(self, events: Sequence[Event]) -> set[tuple[int, str]]:
        from coordinator.recovery.recorder import record_all

        refused = record_all(self.store, events)
        self.store.note_workers(events)
        return refused

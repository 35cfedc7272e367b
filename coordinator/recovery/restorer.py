"""Restore: builds the ledger again after Redis was wiped, restarted or failed over.

Redis is an index. What was accepted is in the store; what runs is known to the workers, whose renewals
bring it back. The order: the events that survived are recorded first, since a finished job that the store
does not know yet must not run again; then a new epoch is opened, whose tokens are greater than all before;
then everything unfinished is entered again, at its old place; and admission opens when all workers that the
store knows to be live have reported, or one lease has passed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coordinator.errors import CoordinatorError, LedgerClosed
from coordinator.identity import is_gone
from coordinator.jobs import Event, event_order
from coordinator.ledger import PROBE_FAILED, Ledger
from coordinator.settings import Settings
from coordinator.states import FINAL, State

if TYPE_CHECKING:
    from coordinator.store import Store, StoredJob

logger = logging.getLogger("coordinator")

BATCH = 500

#: The name of the term of the process that restores.
TERM = "restore"

#: How long a process that restores may be silent before another one does it, in milliseconds, and seconds
#: between two of its signs of life.
TERM_MS = 3_000
TERM_SECONDS = 0.75

#: Seconds between two lines about a restore that takes long.
PROGRESS_SECONDS = 1.0

#: For how many milliseconds the store is trusted to know all workers after they were kept there. A worker that
#: could not enrol there waits for longer than that before it takes work.
FRESH_MS = 12_000

#: Awaited when there may be workers that nobody knows of: it never reports, so that a lease passes.
ANYBODY = "?"

#: The state of a circuit breaker that lets one job at a time try.
PROBING = "half_open"

_RUNNING = (State.RUNNING, State.STOPPING)

#: Writes events to the store; returns (epoch, event id) of those that could not be written.
Record = Callable[[Sequence[Event]], Collection[tuple[int, str]]]


def being_restored(ledger: Ledger) -> bool:
    """Return whether some process restores the ledger at this moment."""
    return ledger.leader(TERM) is not None


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
        self._known = False
        self._told_at = 0.0

    def ensure_open(self) -> bool:
        """Restore if the ledger has no epoch for this life of Redis; False while somebody else does.

        Raises:
            LedgerUnavailable, StoreUnavailable: not now; the ledger stays closed.
        """
        if self.ledger.epoch() is not None:
            return True
        if not self._extend():
            return False
        try:
            with self._holding_the_term():
                if self.ledger.epoch() is None:
                    self.restore()
        except LedgerClosed as error:
            # Wiped or restarted once more, or frozen for too long: somebody else does it.
            logger.warning("[COORDINATOR] the restore is given up: %s", error)
            return False
        finally:
            self.ledger.resign(TERM, self.holder)
        return True

    def rebuild(self) -> int:
        """Build an open ledger again, as after a loss of Redis; returns the number of jobs entered.

        Raises:
            LedgerClosed: somebody else restores it.
            LedgerUnavailable, StoreUnavailable: what was begun is ended by whoever comes next.
        """
        if not self._extend():
            raise LedgerClosed("somebody else restores the ledger")
        try:
            with self._holding_the_term():
                # Closed first: of what happens from now on nothing may be missing in what is recorded.
                self.ledger.open(self.ledger.epoch() or 0, "building", [self.holder])
                return self.restore()
        finally:
            self.ledger.resign(TERM, self.holder)

    @contextmanager
    def _holding_the_term(self) -> Iterator[None]:
        # A thread: a page that takes long must not look like death, and a frozen process stops it as well.
        over = threading.Event()

        def extend() -> None:
            while not over.wait(TERM_SECONDS):
                try:
                    if not self._extend():
                        return
                except CoordinatorError as error:
                    logger.debug("[COORDINATOR] the restorer's term was not extended: %s", error)

        thread = threading.Thread(target=extend, name="coordinator-restore-term", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _extend(self) -> bool:
        return self.ledger.elect(TERM, self.holder, TERM_MS)

    def restore(self) -> int:
        """Build the ledger again; returns the number of jobs entered.

        Raises:
            LedgerClosed: somebody else has taken over; nothing that he built was changed.
        """
        began = self._told_at = time.monotonic()
        ended = self._record_survivors()
        workers = self._workers()
        self.ledger.wipe(self.holder)
        epoch = self.store.open_epoch()
        self.ledger.open(epoch, "building", [self.holder])
        self._build(epoch, "configure", *_pairs(configured(self.settings)))
        self._operator_settings(epoch)
        entered, of = 0, self.store.count_unfinished()
        for page in self._pages():
            entered += len(page)
            self.ledger.restore(epoch, page, entered, of, _over(page, ended))
            workers.update(item.worker for item in page if item.worker and item.state in _RUNNING)
            self._tell(entered, of)
        claims, ends_ms = self.store.claims(), self.store.hold_ends()
        for owner, needs in claims.items():
            end_ms = (ends_ms[owner],) if owner in ends_ms else ()
            self._build(epoch, "claim", owner, " ".join(needs), *end_ms)
        # Those whose process on this machine is gone will not report: nobody needs to wait for them.
        gone = {worker for worker in workers if is_gone(worker)}
        awaited = sorted(workers - gone)
        self.ledger.open_for_workers(epoch, awaited)
        for worker in gone:
            self.ledger.leave(worker, "its process is gone")
        self.store.note(
            "restored", self.holder, "Redis had forgotten", data={"jobs": entered, "epoch": epoch}
        )
        logger.info(
            "[COORDINATOR] epoch %d is open with %d jobs after %.1f s; %d workers are awaited",
            *(epoch, entered, time.monotonic() - began, len(awaited)),
        )
        return entered

    def _pages(self) -> Iterator[list[StoredJob]]:
        """Yield what is unfinished, in its order; the next page is read while Redis works on this one."""
        with ThreadPoolExecutor(1, "coordinator-restore-read") as reader:
            page = self.store.unfinished(limit=BATCH)
            while page:
                following = reader.submit(self.store.unfinished, page[-1].cursor, BATCH)
                yield page
                page = following.result()

    def _tell(self, entered: int, of: int) -> None:
        now = time.monotonic()
        if now - self._told_at < PROGRESS_SECONDS:
            return
        self._told_at = now
        logger.info("[COORDINATOR] restore: %d of %d jobs entered", entered, of)
        if self._known:
            # Whoever takes over, should this process die, need not take the table for an old one.
            self.store.confirm_workers(self.ledger.clock())

    def _workers(self) -> set[str]:
        """Return the workers that may have jobs in hand; with ``ANYBODY`` when there may be others."""
        live, known_at = self.store.live_workers()
        now = self.ledger.clock()
        found = self.ledger.known_workers()
        self._known = self._complete() or abs(now - known_at) <= FRESH_MS
        for worker in sorted(found - live):
            # Should Redis be wiped once more before they have reported, only the store can tell.
            self.store.enrol_worker(worker, (), 0, {}, now)
        if self._known:
            self.store.confirm_workers(now)
            return live | found
        return live | found | {ANYBODY}

    def _record_survivors(self) -> dict[str, Event]:
        """Record the events that are left, and forget those that nobody else has to see.

        The recorder is to see again an end whose result no worker wrote: delivering it may submit jobs, and nobody
        could while the ledger is closed. And an end that the store refused, which the reaper tells again.

        Returns:
            The latter, by job.
        """
        ended: dict[str, Event] = {}
        last = ""
        while events := self.ledger.read_events(BATCH, last):
            refused = self.record(events)
            done = []
            for event in events:
                if (event.epoch, event.event_id) in refused and event.data.get("state") in FINAL:
                    ended[event.job_id] = event
                elif not event.data.get("undelivered_result"):
                    done.append(event.event_id)
            self.ledger.forget_events(done)
            last = events[-1].event_id
        return ended

    def _complete(self) -> bool:
        """Whether the ledger that was found knows all workers: no event was recorded that it forgot."""
        epoch, last = self.ledger.last_event()
        if epoch != self.store.epoch():
            return False
        recorded = self.store.last_recorded(epoch)
        return recorded is None or event_order(recorded) <= event_order(last)

    def _build(self, epoch: int, *arguments: str | float) -> None:
        self.ledger.run("build", epoch, *arguments)

    def _operator_settings(self, epoch: int) -> None:
        for setting in self.store.settings():
            until = setting.until_ms or 0
            if setting.kind == "hold":
                note = setting.by, setting.reason or "", until, setting.set_ms
                self._build(epoch, "hold", setting.resource, *note)
            elif setting.kind in ("limit", "override"):
                self._build(epoch, setting.kind, setting.resource, setting.value, until)
        for resource, breaker in self.store.conditions("breaker").items():
            if breaker.state == PROBING:
                # Or the next run that fails would bring no hold back before somebody looks.
                self._build(epoch, "probe", resource, *PROBE_FAILED)


def _over(page: Sequence[StoredJob], ended: Mapping[str, Event]) -> dict[str, str]:
    """Return the verbs of ends that the rows of these jobs do not know."""
    found = {}
    for item in page:
        event = ended.get(item.job.job_id)
        if event and (event.epoch, event.version) > (item.epoch, item.version):
            found[item.job.job_id] = event.verb
    return found


def configured(settings: Settings) -> dict[str, str]:
    """Return the limits and times of the settings as the ledger keeps them."""
    lease = str(int(settings.lease_seconds * 1000))
    values = {
        "model": str(settings.default_models_limit),
        "serial": "1" if settings.serialized else "",
        "lease_ms": lease,
        "claim_ms": lease,
        "reservation_ms": str(int(settings.reservation_after * 1000)),
    }
    for name, queue in settings.queues.items():
        values[f"queue:{name}"] = str(queue.max_concurrency)
        values[f"org:{name}"] = str(queue.org_limit)
    values |= {resource: str(number) for resource, number in settings.limits.items()}
    values |= {f"weight:{org}": str(number) for org, number in settings.weights.items()}
    values["org"] = str(settings.queue("").org_limit)
    return values


def _pairs(values: dict[str, str]) -> list[str]:
    return [part for pair in values.items() for part in pair]

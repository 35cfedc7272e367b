"""The recorder: brings what the ledger did into the store. One process at a time does it.

Order of writes: the store commits, results that no worker wrote are delivered, and only then the ledger forgets.
Each step may be repeated, so a recorder that is killed anywhere leaves work for the next one, never a gap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from coordinator.errors import LedgerClosed, LedgerUnavailable, StoreUnavailable
from coordinator.jobs import Event
from coordinator.recovery.roster import Roster

if TYPE_CHECKING:
    from coordinator.ledger import Ledger
    from coordinator.store import Store

logger = logging.getLogger("coordinator")

NAME = "recorder"

#: How long the term of an elected recorder lasts; when it dies, another takes over after it.
TERM_MS = 5000

#: Seconds between two elections; far shorter than the term.
ELECT = 1.5

#: Events in one transaction at most; the store may want fewer, so that producers wait for milliseconds only.
BATCH = 500

#: Batches in one tick; together far shorter than the term.
BATCHES = 8

#: Seconds after the end of the stream was reached, between two signs of life while there is nothing to record, between
#: two looks at somebody else's term, and after an error. One that looked again at once would find a few events each
#: time and pay a transaction for them: several times the cost per job. Far below the second it may lag behind.
GATHER = 0.2
REST = 1.0
WATCH = 1.0
BACK_OFF_LEAST, BACK_OFF_MOST = 0.25, 2.0

#: How often the batches of a recorder that is behind double.
BEHIND_MOST = 3

#: Seconds between two looks at the memory of Redis, while there is something to record and while there is nothing:
#: what fills it up is told by events.
MEMORY_SECONDS, MEMORY_IDLE = 1.0, 5.0

#: Nothing is wrong with an event when one of these is raised: it is tried again.
_PASSING = (StoreUnavailable, LedgerUnavailable, LedgerClosed)


_Key: TypeAlias = tuple[int, str]


def record_all(store: Store, events: Sequence[Event]) -> set[_Key]:
    """Record events; one that the store refuses is set aside with an alarm and the rest goes on.

    Returns:
        (epoch, event id) of those that could not be recorded, not even without their details.

    Raises:
        StoreUnavailable: some or none were recorded; recording them again changes nothing.
    """
    # Imported here, since it brings SQLAlchemy; whoever has a store has it already.
    from coordinator.store import RowRefused

    try:
        store.record(events)
    except RowRefused as error:
        if len(events) > 1:
            half = len(events) // 2
            return record_all(store, events[:half]) | record_all(store, events[half:])
        return _set_aside(store, events[0], error)
    return set()


def _set_aside(store: Store, event: Event, error: Exception) -> set[_Key]:
    from coordinator.store import RowRefused

    store.set_aside(event, str(error))
    try:
        store.record([store.bare(event)])
    except RowRefused:
        logger.error(
            "[COORDINATOR] event %s (%s of job %s) cannot be recorded and was set aside: %s",
            *(event.event_id, event.verb, event.job_id, error),
        )
        return {_key(event)}
    logger.error(
        "[COORDINATOR] details of event %s (%s of job %s) were refused and set aside: %s",
        *(event.event_id, event.verb, event.job_id, error),
    )
    return set()


def _key(event: Event) -> _Key:
    return event.epoch, event.event_id


class Recorder:
    """Records the events of one ledger in one store.

    Args:
        ledger: where the events are read.
        store: where they are written.
        deliver: writes the Celery result of a job that ended without a worker; it gets the event and the
            job's row (None when the store does not know it), and may be called again for the same event.
        holder: this process among those that may be elected.
        memory_watermark: percent of Redis's maxmemory from which new jobs are refused.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        deliver: Callable[[Event, dict[str, Any] | None], None],
        holder: str,
        memory_watermark: float = 90.0,
    ) -> None:
        self.ledger, self.store, self.deliver, self.holder = ledger, store, deliver, holder
        self.memory_watermark = memory_watermark
        self.roster = Roster(ledger, store)
        self.elected = False
        self._elected_at = self._looked_at = 0.0
        #: Whether the last tick found nothing to record.
        self._quiet = False
        #: Ticks in a row that did not come to the end of the stream.
        self._behind = 0

    def tick(self) -> int:
        """Record what there is, up to some batches; return the number of events dealt with.

        0 when there is nothing, or when another process is the recorder.

        Raises:
            StoreUnavailable, LedgerUnavailable, LedgerClosed: the events stay where they are.
        """
        if not self.elected or time.monotonic() - self._elected_at >= ELECT:
            self._elected_at = time.monotonic()
            self.elected = self.ledger.elect(NAME, self.holder, TERM_MS)
        if not self.elected:
            self._behind = 0
            return 0
        self._watch_memory()
        # Also when the database is down: then the stream grows.
        self._quiet = False
        self.roster.tick()
        total = 0
        for _ in range(BATCHES):
            # Behind, it takes more at once: that costs producers some milliseconds, and a stream that grows
            # would cost them Redis's memory.
            size = min(BATCH, self.store.batch_size(BATCH) << self._behind)
            events = self.ledger.read_events(size)
            unrecorded = record_all(self.store, events)
            self.roster.note(events)
            for event in events:
                if event.data.get("undelivered_result"):
                    self._deliver(event)
            # Without its state, the end of a job that could not be recorded leaves its tombstone in
            # place: else the row, still unfinished, would be taken for a lost job and run again.
            if unrecorded:
                events = [
                    replace(event, data={}) if _key(event) in unrecorded else event
                    for event in events
                ]
            self.ledger.settle(events)
            total += len(events)
            if len(events) < size:
                self._behind = 0
                break
        else:
            self._behind = min(self._behind + 1, BEHIND_MOST)
        self._quiet = not total
        return total

    def run(self, stop: threading.Event) -> None:
        """Record until ``stop`` is set: without a rest while it is behind, else with the next event."""
        trouble = 0
        while not stop.is_set():
            try:
                if not self.tick() and self.elected:
                    self.ledger.await_events(REST)
            except _PASSING as error:
                trouble += 1
                if trouble == 1:
                    logger.error("[COORDINATOR] recording waits, nothing is lost: %s", error)
            except Exception:
                # The thread must outlive what nobody thought of: without it the stream fills up Redis.
                trouble += 1
                if trouble == 1:
                    logger.exception("[COORDINATOR] recording failed and is tried again")
            else:
                if trouble:
                    logger.info("[COORDINATOR] recording goes on after %d attempts", trouble)
                trouble = 0
                if not self._behind:
                    stop.wait(GATHER if self.elected else WATCH)
                continue
            stop.wait(min(BACK_OFF_LEAST * 2 ** min(trouble, 8), BACK_OFF_MOST))
        self.resign()

    def _watch_memory(self) -> None:
        # Here, since what fills Redis up while nobody records is the stream.
        if time.monotonic() - self._looked_at < (MEMORY_IDLE if self._quiet else MEMORY_SECONDS):
            return
        self._looked_at = time.monotonic()
        full, changed = self.ledger.watch_memory(self.memory_watermark)
        if changed and full:
            logger.error(
                "[COORDINATOR] Redis uses more than %g %% of its memory: new jobs are refused, running ones go on",
                self.memory_watermark,
            )
        elif changed:
            logger.warning("[COORDINATOR] Redis has memory again: new jobs are accepted")

    def resign(self) -> None:
        """Give up the term, so that another one need not wait for its end."""
        if not self.elected:
            return
        self.elected = False
        self.ledger.resign(NAME, self.holder)

    def _deliver(self, event: Event) -> None:
        row = self.store.job(event.job_id)
        try:
            self.deliver(event, row)
        except _PASSING:
            raise
        except Exception as error:
            # Whoever waits for this one result waits on; all others must not wait with it.
            logger.exception("[COORDINATOR] the result of job %s was not delivered", event.job_id)
            self.store.set_aside(event, f"not delivered: {type(error).__name__}: {error}")

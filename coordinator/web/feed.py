"""Live updates: the log as it grows, told to everybody who listens, by one reader for all of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from coordinator.errors import CoordinatorError
from coordinator.store.transitions import NOTES
from coordinator.web.problems import Failed
from coordinator.web.threads import Threads

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry
    from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")

#: Seconds between two looks at the log, between two signs of life, and of one stream: then the browser comes again, and
#: who it is is asked again.
LOOK, SIGN, LONGEST = 0.5, 15.0, 900.0

#: Who may listen at once; entries one of them may be behind; entries of one look.
LISTENERS, BEHIND, PAGE = 100, 1000, 1000

#: Looks overlap by so many milliseconds: after a restore the clock of the log may have gone back a little.
OVERLAP_MS = 10_000


@dataclass(eq=False)
class Listener:
    """Somebody who listens until a moment of the loop's clock; None in the line is the end."""

    wanted: Callable[[AuditEntry], bool]
    until: float
    line: asyncio.Queue[AuditEntry | None] = field(
        default_factory=lambda: asyncio.Queue(BEHIND + 1)
    )


class Feed:
    """Reads the log while somebody listens.

    Args:
        queue: whose log.
        threads: where it is read.
    """

    def __init__(self, queue: WorkQueue, threads: Threads) -> None:
        self._queue, self._threads = queue, threads
        self._listeners: set[Listener] = set()
        self._reader: asyncio.Task[None] | None = None
        self._since, self._seen = 0, dict[str, None]()
        self._closed = False
        self._starting = asyncio.Lock()

    async def listen(
        self, wanted: Callable[[AuditEntry], bool], after: str | None = None
    ) -> AsyncIterator[str]:
        """Return what is sent to somebody who listens, line by line.

        Args:
            wanted: which entries.
            after: the id of the last one they have heard of; what came since is sent first.

        Raises:
            Failed: too many listen already, or the server ends.
        """
        now = asyncio.get_running_loop().time()
        # Who was gone before the first line was read has never begun, and so never ends.
        self._listeners = {one for one in self._listeners if one.until > now}
        if self._closed or len(self._listeners) >= LISTENERS:
            raise Failed(503, "too many listen already", {"Retry-After": "30"})
        listener = Listener(wanted, now + LONGEST)
        self._listeners.add(listener)
        try:
            async with self._starting:
                if self._reader is None:
                    await self._threads.run(self._begin)
                    self._reader = asyncio.create_task(self._read())
            missed = [] if after is None else await self._threads.run(lambda: self._after(after))
        except BaseException:
            self._leave(listener)
            raise
        return self._lines(listener, missed)

    def close(self) -> None:
        """End all streams, and take no new ones."""
        self._closed = True
        for listener in list(self._listeners):
            self._end(listener)
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _lines(
        self, listener: Listener, missed: list[AuditEntry] | None
    ) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        told = set[str]()
        try:
            yield "retry: 2000\n\n"
            if missed is None:
                yield "event: gap\ndata: {}\n\n"
            for entry in missed or ():
                told.add(entry.cursor)
                if listener.wanted(entry):
                    yield _message(entry)
            while (left := listener.until - loop.time()) > 0:
                try:
                    next_one = await asyncio.wait_for(listener.line.get(), min(SIGN, left))
                except TimeoutError:
                    # Also how the death of a browser that said nothing is noticed.
                    yield ": alive\n\n"
                    continue
                if next_one is None:
                    return
                if next_one.cursor not in told:
                    yield _message(next_one)
        finally:
            self._leave(listener)

    def _leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _end(self, listener: Listener) -> None:
        # Nothing more is put in its line, whose last place is kept for this.
        self._listeners.discard(listener)
        listener.line.put_nowait(None)

    async def _read(self) -> None:
        failed = False
        while True:
            await asyncio.sleep(LOOK)
            try:
                self._tell(await self._threads.run(self._look))
            except (CoordinatorError, Failed) as error:
                # It will be back, and nothing is missed: the next look begins where the last one ended.
                logger.debug("[COORDINATOR] no live updates at this moment: %s", error)
            except Exception:
                # It must outlive what nobody thought of: without it all who listen hear nothing any more, and it is
                # started for the first of them only.
                if not failed:
                    logger.exception("[COORDINATOR] no live updates; tried again until it works")
                failed = True
            else:
                failed = False

    def _tell(self, found: list[AuditEntry]) -> None:
        for listener in list(self._listeners):
            for entry in found:
                if not listener.wanted(entry):
                    continue
                if listener.line.qsize() >= BEHIND:
                    # It comes again and says where it was; waiting for it would fill the memory.
                    self._end(listener)
                    break
                listener.line.put_nowait(entry)

    def _begin(self) -> None:
        latest = self._queue.get_audit(limit=1)
        self._since = _moment(latest[0].cursor) if latest else 0
        self._seen = {}
        self._look()

    def _look(self) -> list[AuditEntry]:
        """Return what came since the last look, the oldest first."""
        found: list[AuditEntry] = []
        cursor: str | None = None
        while True:
            page = self._queue.get_audit(
                since_ms=max(0, self._since - OVERLAP_MS), limit=PAGE, cursor=cursor
            )
            fresh = [entry for entry in page if entry.cursor not in self._seen]
            found += fresh
            if len(page) < PAGE or not fresh or len(found) > BEHIND:
                break
            cursor = page[-1].cursor
        self._seen.update(dict.fromkeys(entry.cursor for entry in reversed(found)))
        # Operators' notes are written at once, the rest by the recorder, which may be far behind them.
        recorded = (_moment(entry.cursor) for entry in found if not _is_note(entry.cursor))
        self._since = max([self._since, *recorded])
        oldest = self._since - OVERLAP_MS
        for known in [known for known in self._seen if _moment(known) < oldest]:
            del self._seen[known]
        return found[::-1]

    def _after(self, cursor: str) -> list[AuditEntry] | None:
        """Return what came after an entry, the oldest first; None when it is too much to tell."""
        found = self._queue.get_audit(since_ms=_moment(cursor), limit=PAGE)
        if len(found) == PAGE:
            return None
        here = _order(cursor)
        return [entry for entry in reversed(found) if _order(entry.cursor) > here]


def _message(entry: AuditEntry) -> str:
    # JSON has no line ends in it, so that no text of a job can end the message.
    return f"id: {entry.cursor}\ndata: {json.dumps(asdict(entry))}\n\n"


def _order(cursor: str) -> tuple[int, str]:
    ordinal, _, event_id = cursor.partition(".")
    return int(ordinal), event_id


def _is_note(cursor: str) -> bool:
    return int(cursor.rpartition("-")[2]) >= NOTES


def _moment(cursor: str) -> int:
    """Return when an entry was written (Unix milliseconds): its id begins with it."""
    return int(cursor.partition(".")[2].partition("-")[0])

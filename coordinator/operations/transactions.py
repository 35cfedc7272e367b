"""Transactional outbox: jobs that are accepted by the commit of the caller's own transaction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from coordinator.errors import CoordinatorError
from coordinator.jobs import Job

logger = logging.getLogger("coordinator")

#: Where a session keeps what is to be entered after its commit.
_KEY = "coordinator_outbox"


class Enterer(Protocol):
    """The work queue, as far as an outbox needs it."""

    def accept_in(self, target: Any, jobs: Sequence[Job]) -> None:
        """Store jobs inside the caller's transaction."""

    def enter(self, jobs: Sequence[Job]) -> None:
        """Enter into the ledger those of the jobs that are stored."""


class Outbox:
    """Collects the jobs of one block.

    Args:
        target: a SQLAlchemy session (also scoped or asynchronous) or connection, on the store's database.
    """

    def __init__(self, target: Any) -> None:
        target = getattr(target, "sync_session", target)
        # A scoped session hands out the one of this thread.
        self.target = target() if hasattr(target, "registry") else target
        self._accepted: list[tuple[Enterer, list[Job]]] = []

    def add(self, queue: Enterer, jobs: Sequence[Job]) -> None:
        """Store jobs in the caller's transaction.

        Raises:
            StoreUnavailable, RowRefused: they could not be stored; the caller's transaction decides.
        """
        queue.accept_in(self.target, jobs)
        self._accepted.append((queue, list(jobs)))
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        if not isinstance(self.target, Session):
            return
        info = self.target.info
        if _KEY not in info:
            info[_KEY] = []
            event.listen(self.target, "after_transaction_end", _ended)
        if self not in info[_KEY]:
            info[_KEY].append(self)

    def enter(self) -> None:
        """Start what was committed; for callers with a plain connection, after their commit.

        Jobs that are not stored (rolled back) are left out. Never raises for a ledger or a database that is
        away: the reaper enters what is left.
        """
        accepted, self._accepted = self._accepted, []
        for queue, jobs in accepted:
            try:
                queue.enter(jobs)
            except CoordinatorError as error:
                logger.warning(
                    "[COORDINATOR] %d jobs accepted, entered later: %s", len(jobs), error
                )


def _ended(session: Any, transaction: Any) -> None:
    # Only the outermost: what a savepoint released may still be rolled back with the rest.
    if transaction.parent is None:
        boxes, session.info[_KEY] = session.info[_KEY], []
        for box in boxes:
            box.enter()


_current: ContextVar[Outbox | None] = ContextVar("coordinator_outbox", default=None)


def current_outbox() -> Outbox | None:
    """Return the outbox of the present block, or None."""
    return _current.get()


@contextmanager
def outbox(target: Any) -> Iterator[Outbox]:
    """Accept the jobs sent in this block with the caller's own transaction, or not at all.

    ``with outbox(session): task.delay(...)``: the jobs are rows of that transaction. Its commit accepts them,
    and they start at once; its rollback leaves nothing. A crash after the commit is healed by the reaper.

    Args:
        target: a SQLAlchemy session or connection on the database of the store. With a connection call
            ``enter()`` of what this returns after the commit; else the reaper's next round starts the jobs.
    """
    box = Outbox(target)
    token = _current.set(box)
    try:
        yield box
    finally:
        _current.reset(token)

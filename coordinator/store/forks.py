"""Forks: no connection may be open, and no transaction under way, while this process forks.

SQLite keeps its locks in the memory of the process: a child that inherits an open database believes that it
holds them and writes without any (or waits for ever for one that another thread held); two processes on one
PostgreSQL socket read each other's answers. So connections are closed before the fork, not after it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

#: Seconds a fork waits for transactions of other threads; one that takes longer is left to its thread.
PATIENCE = 10.0


class Closable(Protocol):
    """What owns connections."""

    def close_idle(self) -> None:
        """Close what nobody uses; the next use connects again."""

    def forget(self) -> None:
        """In a child: drop connections that were in use at the fork, without touching them."""


class _Gate:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = False
        self._own = threading.local()

    @contextmanager
    def inside(self) -> Iterator[None]:
        own = getattr(self._own, "count", 0)
        with self._changed:
            # Whoever is inside already goes on: the fork waits for it.
            while self._forking and not own:
                self._changed.wait()
            self._inside += 1
        self._own.count = own + 1
        try:
            yield
        finally:
            self._own.count = own
            with self._changed:
                self._inside -= 1
                if self._forking:
                    self._changed.notify_all()

    def close(self) -> None:
        own = getattr(self._own, "count", 0)
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._forking = True
            while self._inside > own and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())

    def open(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_gate = _Gate()
_known: weakref.WeakSet[Closable] = weakref.WeakSet()


def inside() -> AbstractContextManager[None]:
    """Return a context in which a connection may be open; a fork waits until it is left."""
    return _gate.inside()


def register(owner: Closable) -> None:
    """Have the connections of ``owner`` closed before each fork."""
    _known.add(owner)


def _before() -> None:
    _gate.close()
    for owner in list(_known):
        owner.close_idle()


def _after_in_parent() -> None:
    _gate.open()


def _after_in_child() -> None:
    # The old gate counts threads that do not exist here.
    global _gate
    _gate = _Gate()
    for owner in list(_known):
        owner.forget()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)

"""The two records of an installation, opened when they are first used."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coordinator.embedded import redis_url
from coordinator.jobs import Event
from coordinator.ledger import Ledger
from coordinator.restorer import Restorer, configured
from coordinator.settings import Settings

if TYPE_CHECKING:
    from coordinator.store import Store


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


class Records:
    """Ledger and store of one installation.

    Args:
        settings: the installation's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._store: Store | None = None

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            with self._lock:
                if self._ledger is None:
                    settings = self.settings
                    self._ledger = Ledger(redis_url(settings), settings.key_prefix)
        return self._ledger

    @property
    def store(self) -> Store:
        if self._store is None:
            with self._lock:
                if self._store is None:
                    store = open_store(self.settings)
                    store.upgrade()
                    self._store = store
        return self._store

    def ensure_open(self) -> bool:
        """Restore the ledger if it is of another life of Redis; False while somebody else does."""
        if self.ledger.epoch() is not None:
            return True
        holder = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
        restorer = Restorer(self.ledger, self.store, self.settings, self._record, holder)
        return restorer.ensure_open()

    def configure(self) -> None:
        """Bring the settings of this process to the ledger; what an operator set stays."""
        self.ledger.configure(configured(self.settings))

    def _record(self, events: Sequence[Event]) -> None:
        from coordinator.recorder import record_all

        record_all(self.store, events)

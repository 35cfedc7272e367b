"""The store: what was accepted and what happened, in SQLite or PostgreSQL.

Importing it imports SQLAlchemy, which takes most of a second: processes that may never need the store
import it where they first use it. Verbs live in the modules of this package, one topic each.
"""

from __future__ import annotations

from coordinator.store.accounts import Accounts, Answer, Session, Token, User
from coordinator.store.conditions import Condition, Conditions
from coordinator.store.database import Row, RowRefused
from coordinator.store.failures import Failures
from coordinator.store.log import Log
from coordinator.store.operations import Operations, OperatorSetting
from coordinator.store.poison import Poison
from coordinator.store.recording import Recorded, Recording
from coordinator.store.redaction import Redactor, redact
from coordinator.store.restoration import Restoration, StoredJob
from coordinator.store.retention import Pruned
from coordinator.store.upgrade import SchemaStatus, Upgrade
from coordinator.store.workers import StoredWorker, Workers

__all__ = [
    "Answer",
    "Condition",
    "OperatorSetting",
    "Pruned",
    "Recorded",
    "Redactor",
    "Row",
    "RowRefused",
    "SchemaStatus",
    "Session",
    "Store",
    "StoredJob",
    "StoredWorker",
    "Token",
    "User",
    "redact",
]


class Store(
    Recording,
    Poison,
    Restoration,
    Conditions,
    Failures,
    Operations,
    Workers,
    Accounts,
    Log,
    Upgrade,
):
    """All verbs of the store; see ``database.Database`` for the arguments.

    Cheap to make: it connects with the first verb. Safe to share between threads and across a fork.
    Every verb raises ``StoreUnavailable`` when the database cannot be used and ``RowRefused`` when it
    forbids a value.
    """

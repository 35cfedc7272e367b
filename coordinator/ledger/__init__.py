"""The ledger: who may run now. One method per script; each script is one transition, atomic by being one.

The scripts are in ``lua/``, one file per operation. What they share is put in front of them.
"""

from __future__ import annotations

from coordinator.ledger.answers import Admission, Claim, Finish, Holder, Obstacle, Renewal, Waiting
from coordinator.ledger.capacity import PROBE_FAILED, Capacity
from coordinator.ledger.epochs import Epochs
from coordinator.ledger.interventions import Interventions
from coordinator.ledger.jobs import Jobs
from coordinator.ledger.locks import Lock
from coordinator.ledger.mending import Mending
from coordinator.ledger.scripts import connection_url
from coordinator.ledger.shares import Limit, Shares

__all__ = [
    "PROBE_FAILED",
    "Admission",
    "Claim",
    "Finish",
    "Holder",
    "Ledger",
    "Limit",
    "Lock",
    "Obstacle",
    "Renewal",
    "Waiting",
    "connection_url",
]


class Ledger(Jobs, Interventions, Capacity, Epochs, Shares, Mending):
    """The ledger in one Redis database; see ``scripts.Scripts`` for the arguments.

    Every verb raises ``LedgerUnavailable`` when Redis was not reached in time, and ``LedgerClosed`` when the
    ledger is not of this life of the server, or is being restored.
    """

"""Everything that is in the ledger at a moment, read without stopping anybody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.ledger import Ledger

_BATCH = 500
_HASHES = (
    "meta",
    "defaults",
    "limits",
    "overrides",
    "holds",
    "probing",
    "pools",
    "pool_workers",
    "runtimes",
    "counts",
    "reservation",
    "standby",
    "claims",
)
_SETS = ("blocked", "kin", "owners", "wakes", "restored", "awaited")
_ORDERED = ("ends", "delayed", "expiring", "keeping", "workers", "tombstones", "wide")
_JOBS = ("job", "message", "turn", "dispatched", "holders", "owned", "members", "worker", "running")
_CLASSES = ("class", "needs", "kin", "lanes", "passes", "parked")
KINDS = frozenset((*_HASHES, *_SETS, *_ORDERED, *_JOBS, *_CLASSES, "events", "leader"))

Scores = dict[str, float]


@dataclass
class Snapshot:
    """Everything in the ledger but messages' texts and events."""

    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)

    def names(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield (name, key) of the keys ``<kind>:<name>``."""
        for keys in (self.hashes, self.sets, self.scores, self.others):
            for key in keys:
                if key.startswith(f"{kind}:"):
                    yield key[len(kind) + 1 :], key

    def hash(self, key: str) -> dict[str, str]:
        return self.hashes.get(key, {})

    def set(self, key: str) -> set[str]:
        return self.sets.get(key, set())

    def zset(self, key: str) -> Scores:
        return self.scores.get(key, {})


def _type_of(name: str) -> str | None:
    kind, _, rest = name.partition(":")
    if kind in _ORDERED or kind in ("class", "lanes", "passes", "parked", "dispatched"):
        return "zset"
    if kind in _SETS or kind in ("holders", "owned", "members", "kin", "running"):
        return "set"
    if kind == "worker" and rest.endswith(":jobs"):
        return "set"
    return "hash" if kind in _HASHES or kind in ("job", "needs", "worker") else None


def read(ledger: Ledger) -> Snapshot:
    """Return what is in a ledger: all but messages and events."""
    found = Snapshot()
    batch: list[str] = []

    def fetch() -> None:
        reads = ledger.redis.pipeline(transaction=False)
        readable = [(name, kind) for name in batch if (kind := _type_of(name))]
        for name, kind in readable:
            key = f"{ledger.prefix}{name}"
            if kind == "hash":
                reads.hgetall(key)
            elif kind == "set":
                reads.smembers(key)
            else:
                reads.zrange(key, 0, -1, withscores=True)
        for (name, kind), value in zip(readable, reads.execute(), strict=True):
            # Empty is what is gone since it was found.
            if value and kind == "hash":
                found.hashes[name] = value
            elif value and kind == "set":
                found.sets[name] = set(value)
            elif value:
                found.scores[name] = dict(value)
        found.others.update(name for name in batch if not _type_of(name))
        batch.clear()

    pattern = "".join(f"[{char}]" if char in "*?[" else char for char in ledger.prefix)
    for key in ledger.redis.scan_iter(match=f"{pattern}*", count=1000):
        batch.append(key.removeprefix(ledger.prefix))
        if len(batch) >= _BATCH:
            fetch()
    if batch:
        fetch()
    return found

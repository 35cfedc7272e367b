"""Verification: recomputes from the hashes of the jobs what the ledger must hold, and reports drift.

Reads without stopping anybody: on a ledger in use only what two verifications in a row report is drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coordinator.ledger import Ledger
from coordinator.resources import QUEUE, models_of
from coordinator.states import FINAL, HOLDING, State

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
    "claims",
)
_SETS = ("blocked", "kin", "wakes", "restored", "awaited")
_ORDERED = ("ends", "delayed", "expiring", "keeping", "workers", "tombstones", "wide")
_JOBS = ("job", "message", "dispatched", "holders", "owned", "members", "worker", "running")
_CLASSES = ("class", "needs", "kin", "lanes", "passes", "parked")
_KINDS = frozenset((*_HASHES, *_SETS, *_ORDERED, *_JOBS, *_CLASSES, "events", "leader"))
#: What a waiting job must not keep of an earlier life: it would be taken for the present one.
_LEFTOVERS = (
    "held",
    "worker",
    "pool",
    "nonce",
    "stop",
    "due",
    "needs",
    "priority",
    "org",
    "replaced",
)

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between what is recorded and what follows from the jobs.

    Attributes:
        subject: the key, without prefix, or the job.
        problem: what is wrong with it.
    """

    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"


@dataclass
class _Snapshot:
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


def _read(ledger: Ledger) -> _Snapshot:
    found = _Snapshot()
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


class _Verification:
    def __init__(self, snapshot: _Snapshot) -> None:
        self.at = snapshot
        # Of a settled job a trace is left for a while, without its class: it counts no more.
        jobs = {name: snapshot.hashes[key] for name, key in snapshot.names("job")}
        self.jobs = {
            name: job for name, job in jobs.items() if "class" in job or not job.get("state")
        }
        self.drifts: list[Drift] = []

    def _note(self, subject: str, problem: str) -> None:
        self.drifts.append(Drift(subject, problem))

    def _same(self, subject: str, found: Iterable[object], expected: Iterable[object]) -> None:
        have, want = set(found), set(expected)
        # One by one, so that two readings of a ledger in use can be compared.
        for item in sorted(map(str, want - have)):
            self._note(subject, f"misses {item}")
        for item in sorted(map(str, have - want)):
            self._note(subject, f"has {item}, which does not belong there")

    def _in(self, *states: State) -> dict[str, dict[str, str]]:
        return {job_id: job for job_id, job in self.jobs.items() if job["state"] in states}

    def run(self) -> list[Drift]:
        for check in (self.keys, self.holders, self.waiting, self.parking, self.obstacles):
            check()
        for check in (self.times, self.dispatched, self.workers, self.ends, self.counts):
            check()
        return self.drifts

    def keys(self) -> None:
        at = self.at
        for key in (*at.hashes, *at.sets, *at.scores, *at.others):
            if key.partition(":")[0] not in _KINDS:
                self._note(key, "is no key of the ledger")
        for job_id, job in self.jobs.items():
            if job.get("state") not in set(State):
                self._note(f"job:{job_id}", f"is in no known state: {job.get('state')}")
                self.jobs = {known: item for known, item in self.jobs.items() if known != job_id}
        unfinished = {job_id for job_id, job in self.jobs.items() if job["state"] not in FINAL}
        self._same("message:*", (name for name, _ in at.names("message")), unfinished)
        ended = self._in(*FINAL)
        settled = {job_id for job_id, job in ended.items() if "replaced" in job}
        self._same("tombstones", set(at.zset("tombstones")) - settled, set(ended) - settled)

    def holders(self) -> None:
        expected: dict[str, set[str]] = {}
        for job_id, job in self._in(*HOLDING).items():
            for resource in job.get("held", "").split():
                expected.setdefault(resource, set()).add(job_id)
        members: dict[str, set[str]] = {}
        for job_id, job in self.jobs.items():
            if job["state"] not in FINAL and "owner" in job:
                members.setdefault(job["owner"], set()).add(job_id)
        for owner in {*members, *(name for name, _ in self.at.names("members"))}:
            key = f"members:{owner}"
            self._same(key, self.at.set(key), members.get(owner, set()))
        for owner, key in self.at.names("owned"):
            if owner not in members:
                self._note(key, "holds something for no job")
            for resource in self.at.set(key):
                expected.setdefault(resource, set()).add(owner)
        for resource in {*expected, *(name for name, _ in self.at.names("holders"))}:
            key = f"holders:{resource}"
            self._same(key, self.at.set(key), expected.get(resource, set()))
        for job_id, job in self.jobs.items():
            if job["state"] not in HOLDING and job.get("held"):
                self._note(f"job:{job_id}", f"is {job['state']} and holds {job['held']}")

    def waiting(self) -> None:
        classes: dict[str, Scores] = {}
        for job_id, job in self._in(State.WAITING).items():
            classes.setdefault(job["class"], {})[job_id] = float(job["sequence"])
            left = [name for name in _LEFTOVERS if name in job]
            if left:
                self._note(f"job:{job_id}", f"waits and still has {left}")
        for class_id in {*classes, *(name for name, _ in self.at.names("class"))}:
            key = f"class:{class_id}"
            self._same(key, self.at.zset(key).items(), classes.get(class_id, {}).items())
        self._same("needs:*", (name for name, _ in self.at.names("needs")), classes)
        wide = {
            (job_id, score)
            for class_id, scores in classes.items()
            for job_id, score in scores.items()
            if len(models_of(self.at.hash(f"needs:{class_id}").get("needs", "").split())) > 1
        }
        self._same("wide", self.at.zset("wide").items(), wide)
        kin: dict[str, set[str]] = {}
        for class_id, key in self.at.names("needs"):
            if owner := self.at.hashes[key].get("owner"):
                kin.setdefault(owner, set()).add(class_id)
        self._same("kin", self.at.set("kin"), kin)
        for owner in {*kin, *(name for name, _ in self.at.names("kin"))}:
            self._same(f"kin:{owner}", self.at.set(f"kin:{owner}"), kin.get(owner, set()))
        reserved = self.at.hash("reservation").get("job")
        if reserved and reserved not in self.at.zset("wide"):
            self._note("reservation", f"is for {reserved}, which does not wait for several models")

    def parking(self) -> None:
        at = self.at
        expected: dict[str, Scores] = {}
        for class_id, key in at.names("needs"):
            needs, scores = at.hashes[key], at.zset(f"class:{class_id}")
            resource = needs.get("parked", "")
            if resource not in needs["needs"].split():
                self._note(key, f"is parked on {resource!r}, which it does not need")
            lane = f"{needs['priority']}|{needs['org']}"
            parked = expected.setdefault(f"parked:{resource}|{lane}", {})
            parked[class_id] = min(scores.values(), default=-1)
        for key in {*expected, *(key for _, key in at.names("parked"))}:
            self._same(key, at.zset(key).items(), expected.get(key, {}).items())
        lanes: dict[str, set[str]] = {}
        for key in expected:
            resource, _, lane = key.removeprefix("parked:").partition("|")
            lanes.setdefault(resource, set()).add(lane)
        for resource in {*lanes, *(name for name, _ in at.names("lanes"))}:
            key = f"lanes:{resource}"
            self._same(key, at.zset(key), lanes.get(resource, ()))
            for lane, score in at.zset(key).items():
                if int(score) >> 49 != int(lane.partition("|")[0]):
                    self._note(key, f"{lane} has the turn {score:.0f} of another priority")
        self._same("blocked", at.set("blocked"), lanes)
        for resource, key in at.names("passes"):
            if resource not in lanes:
                self._note(key, "is kept though nothing is parked there")

    def obstacles(self) -> None:
        """Every resource where something is parked must be a reason to wait."""
        if self.at.hash("meta").get("open") != "1":
            return
        for resource in self.at.set("blocked"):
            kind, _, name = resource.partition(":")
            limit = self._limit(resource, kind, name)
            full = limit is not None and len(self.at.set(f"holders:{resource}")) >= limit
            waking = resource in self.at.set("wakes") or resource in self.at.hash("holds")
            waking |= resource in self.at.hash("reservation").get("models", "").split()
            if not full and not waking and not (kind == QUEUE and self._free(name) <= 0):
                self._note(f"lanes:{resource}", "classes are parked there, and nothing stops them")

    def _limit(self, resource: str, kind: str, name: str) -> int | None:
        defaults = self.at.hash("defaults")
        names = {"org": (f"org:{name.partition('/')[0]}", "org"), QUEUE: (resource,)}.get(
            kind, (resource, kind)
        )
        found = self.at.hash("overrides").get(resource) or self.at.hash("limits").get(resource)
        for default in names:
            found = found or defaults.get(default)
        return None if found is None else int(found)

    def _free(self, queue: str) -> int:
        free, siblings = 0, {queue}
        for pool, slots in self.at.hash("pools").items():
            if queue in pool.split():
                free += max(0, int(slots) - len(self.at.set(f"running:{pool}")))
                siblings |= set(pool.split())
        return free - sum(len(self.at.zset(f"dispatched:{name}")) for name in siblings)

    def times(self) -> None:
        at = self.at
        delayed = self._in(State.DELAYED)
        due = {job_id: float(job.get("due", -1)) for job_id, job in delayed.items()}
        self._same("delayed", at.zset("delayed").items(), due.items())
        self._needs_recorded(delayed)
        for job_id, job in self._in(State.DELAYED, State.WAITING).items():
            expires = float(job["expires"]) if "expires" in job else None
            if at.zset("expiring").get(job_id) != expires:
                self._note("expiring", f"{job_id} expires at {expires}")
        for job_id in at.zset("expiring"):
            if "expires" not in self.jobs.get(job_id, {}) or self.jobs[job_id]["state"] in FINAL:
                self._note("expiring", f"{job_id} does not expire")

    def _needs_recorded(self, jobs: dict[str, dict[str, str]]) -> None:
        for job_id, job in jobs.items():
            absent = [name for name in ("needs", "priority", "org") if name not in job]
            if absent:
                self._note(f"job:{job_id}", f"is {job['state']} without its {absent}")

    def dispatched(self) -> None:
        jobs = self._in(State.DISPATCHED)
        queues: dict[str, set[str]] = {}
        for job_id, job in jobs.items():
            queues.setdefault(job["queue"], set()).add(job_id)
        for queue in {*queues, *(name for name, _ in self.at.names("dispatched"))}:
            key = f"dispatched:{queue}"
            self._same(key, self.at.zset(key), queues.get(queue, set()))

    def workers(self) -> None:
        at = self.at
        reported = {name: at.hashes[key] for name, key in at.names("worker") if key in at.hashes}
        reported = {name: worker for name, worker in reported.items() if "pool" in worker}
        if at.hash("meta").get("open") == "1" and "restored" not in at.sets:
            self._same("workers", set(at.zset("workers")) - self._unheard(), reported)
        slots: Counter[str] = Counter()
        numbers: Counter[str] = Counter()
        for worker in reported.values():
            slots[worker["pool"]] += max(0, int(worker["slots"]) - int(worker["busy"]))
            numbers[worker["pool"]] += 1
        pools = {pool: str(number) for pool, number in slots.items()}
        self._same("pools", at.hash("pools").items(), pools.items())
        shown = {pool: str(number) for pool, number in numbers.items()}
        self._same("pool_workers", at.hash("pool_workers").items(), shown.items())
        busy = self._in(State.RUNNING, State.STOPPING)
        self._needs_recorded(busy)
        members: dict[str, set[str]] = {}
        for job_id, job in busy.items():
            members.setdefault(f"worker:{job['worker']}:jobs", set()).add(job_id)
            if "pool" in job:
                members.setdefault(f"running:{job['pool']}", set()).add(job_id)
        known = {
            key for name, key in at.names("worker") if name.endswith(":jobs") and key in at.sets
        }
        for key in {*members, *known, *(key for _, key in at.names("running"))}:
            self._same(key, at.set(key), members.get(key, set()))

    def _unheard(self) -> set[str]:
        # After a restore a worker is known by its jobs alone until it has reported.
        return {
            name for name in self.at.zset("workers") if "pool" not in self.at.hash(f"worker:{name}")
        }

    def ends(self) -> None:
        for entry in self.at.zset("ends"):
            kind, _, resource = entry.partition(" ")
            if resource not in self.at.hash(f"{kind}s"):
                self._note("ends", f"{entry} ends what there is not")

    def counts(self) -> None:
        counted = Counter(f"{job['queue']}|{job['state']}" for job in self.jobs.values())
        found = {
            name: int(number) for name, number in self.at.hash("counts").items() if int(number)
        }
        self._same("counts", found.items(), counted.items())


def verify(ledger: Ledger) -> list[Drift]:
    """Return every difference between what the ledger holds and what follows from its jobs.

    Args:
        ledger: read in full, but for messages and events; nothing is changed.
    """
    return _Verification(_read(ledger)).run()

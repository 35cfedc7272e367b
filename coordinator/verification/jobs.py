"""Jobs, and what is kept of each: messages, holders, places in the order, moments."""

from __future__ import annotations

from collections import Counter

from coordinator.resources import MODEL, SERIAL, kind_of, models_of
from coordinator.states import FINAL, HOLDING, State
from coordinator.verification.recount import Recount
from coordinator.verification.snapshot import KINDS, Scores

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


class JobChecks(Recount):
    """What follows from single jobs."""

    def keys(self) -> None:
        at = self.at
        for key in (*at.hashes, *at.sets, *at.scores, *at.others):
            if key.partition(":")[0] not in KINDS:
                self.note(key, "is no key of the ledger")
        for job_id, job in self.jobs.items():
            if job.get("state") not in set(State):
                self.note(f"job:{job_id}", f"is in no known state: {job.get('state')}")
                self.jobs = {known: item for known, item in self.jobs.items() if known != job_id}
        unfinished = {job_id for job_id, job in self.jobs.items() if job["state"] not in FINAL}
        self.same("message:*", (name for name, _ in at.names("message")), unfinished)
        ended = self.jobs_in(*FINAL)
        settled = {job_id for job_id, job in ended.items() if "replaced" in job}
        self.same("tombstones", set(at.zset("tombstones")) - settled, set(ended) - settled)

    def holders(self) -> None:
        expected: dict[str, set[str]] = {}
        for job_id, job in self.jobs_in(*HOLDING).items():
            for resource in job.get("held", "").split():
                expected.setdefault(resource, set()).add(job_id)
        members: dict[str, set[str]] = {}
        for job_id, job in self.jobs.items():
            if job["state"] not in FINAL and "owner" in job:
                members.setdefault(job["owner"], set()).add(job_id)
        for owner in {*members, *(name for name, _ in self.at.names("members"))}:
            key = f"members:{owner}"
            self.same(key, self.at.set(key), members.get(owner, set()))
        self.same("owners", self.at.set("owners"), (name for name, _ in self.at.names("owned")))
        for owner, key in self.at.names("owned"):
            if owner not in members:
                self.note(key, "holds something for no job")
            for resource in self.at.set(key):
                expected.setdefault(resource, set()).add(owner)
        for resource in {*expected, *(name for name, _ in self.at.names("holders"))}:
            key = f"holders:{resource}"
            self.same(key, self.at.set(key), expected.get(resource, set()))
        for job_id, job in self.jobs.items():
            if job["state"] not in HOLDING and job.get("held"):
                self.note(f"job:{job_id}", f"is {job['state']} and holds {job['held']}")

    def waiting(self) -> None:
        classes: dict[str, Scores] = {}
        for job_id, job in self.jobs_in(State.WAITING).items():
            classes.setdefault(job["class"], {})[job_id] = float(job["sequence"])
            left = [name for name in _LEFTOVERS if name in job]
            if left:
                self.note(f"job:{job_id}", f"waits and still has {left}")
        for class_id in {*classes, *(name for name, _ in self.at.names("class"))}:
            key = f"class:{class_id}"
            self.same(key, self.at.zset(key).items(), classes.get(class_id, {}).items())
        self.same("needs:*", (name for name, _ in self.at.names("needs")), classes)
        wide = {
            (job_id, score)
            for class_id, scores in classes.items()
            for job_id, score in scores.items()
            if len(models_of(self.at.hash(f"needs:{class_id}").get("needs", "").split())) > 1
        }
        self.same("wide", self.at.zset("wide").items(), wide)
        kin: dict[str, set[str]] = {}
        for class_id, key in self.at.names("needs"):
            if owner := self.at.hashes[key].get("owner"):
                kin.setdefault(owner, set()).add(class_id)
        self.same("kin", self.at.set("kin"), kin)
        for owner in {*kin, *(name for name, _ in self.at.names("kin"))}:
            self.same(f"kin:{owner}", self.at.set(f"kin:{owner}"), kin.get(owner, set()))
        reserved = self.at.hash("reservation").get("job")
        if reserved and reserved not in self.at.zset("wide"):
            self.note("reservation", f"is for {reserved}, which does not wait for several models")

    def times(self) -> None:
        at = self.at
        delayed = self.jobs_in(State.DELAYED)
        due = {job_id: float(job.get("due", -1)) for job_id, job in delayed.items()}
        self.same("delayed", at.zset("delayed").items(), due.items())
        self.needs_recorded(delayed)
        for job_id, job in self.jobs_in(State.DELAYED, State.WAITING).items():
            expires = float(job["expires"]) if "expires" in job else None
            if at.zset("expiring").get(job_id) != expires:
                self.note("expiring", f"{job_id} expires at {expires}")
        for job_id in at.zset("expiring"):
            if "expires" not in self.jobs.get(job_id, {}) or self.jobs[job_id]["state"] in FINAL:
                self.note("expiring", f"{job_id} does not expire")

    def dispatched(self) -> None:
        jobs = self.jobs_in(State.DISPATCHED)
        queues: dict[str, set[str]] = {}
        for job_id, job in jobs.items():
            queues.setdefault(job["queue"], set()).add(job_id)
        for queue in {*queues, *(name for name, _ in self.at.names("dispatched"))}:
            key = f"dispatched:{queue}"
            self.same(key, self.at.zset(key), queues.get(queue, set()))
        standing = {job["standby"]: job_id for job_id, job in jobs.items() if "standby" in job}
        self.same("standby", self.at.hash("standby").items(), standing.items())
        for job_id, job in {**jobs, **self.jobs_in(State.RUNNING, State.STOPPING)}.items():
            lacks = set(job["needs"].split()) - set(job.get("held", "").split())
            if "owner" in job:
                lacks = {name for name in lacks if kind_of(name) not in (MODEL, SERIAL)}
            for resource in sorted(lacks - {job.get("standby")}):
                self.note(f"job:{job_id}", f"is {job['state']} without {resource}")
            if "standby" in job and (job_id not in jobs or job["standby"] not in lacks):
                self.note(f"job:{job_id}", f"stands by for {job['standby']} in vain")

    def counts(self) -> None:
        counted = Counter(f"{job['queue']}|{job['state']}" for job in self.jobs.values())
        found = {
            name: int(number) for name, number in self.at.hash("counts").items() if int(number)
        }
        self.same("counts", found.items(), counted.items())

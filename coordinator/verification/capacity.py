"""Classes and workers: where classes are parked, and whether something stops them there."""

from __future__ import annotations

from collections import Counter

from coordinator.resources import QUEUE
from coordinator.states import State
from coordinator.verification.recount import Recount
from coordinator.verification.snapshot import Scores


class CapacityChecks(Recount):
    """What follows from resources and workers."""

    def parking(self) -> None:
        at = self.at
        expected: dict[str, Scores] = {}
        for class_id, key in at.names("needs"):
            needs, scores = at.hashes[key], at.zset(f"class:{class_id}")
            resource = needs.get("parked", "")
            if resource not in needs["needs"].split():
                self.note(key, f"is parked on {resource!r}, which it does not need")
            lane = f"{needs['priority']}|{needs['org']}"
            parked = expected.setdefault(f"parked:{resource}|{lane}", {})
            parked[class_id] = min(scores.values(), default=-1)
        for key in {*expected, *(key for _, key in at.names("parked"))}:
            self.same(key, at.zset(key).items(), expected.get(key, {}).items())
        lanes: dict[str, set[str]] = {}
        for key in expected:
            resource, _, lane = key.removeprefix("parked:").partition("|")
            lanes.setdefault(resource, set()).add(lane)
        for resource in {*lanes, *(name for name, _ in at.names("lanes"))}:
            key = f"lanes:{resource}"
            self.same(key, at.zset(key), lanes.get(resource, ()))
            for lane, score in at.zset(key).items():
                if int(score) >> 49 != int(lane.partition("|")[0]):
                    self.note(key, f"{lane} has the turn {score:.0f} of another priority")
        self.same("blocked", at.set("blocked"), lanes)
        for resource, key in at.names("passes"):
            if resource not in lanes:
                self.note(key, "is kept though nothing is parked there")

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
                self.note(f"lanes:{resource}", "classes are parked there, and nothing stops them")

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

    def workers(self) -> None:
        at = self.at
        reported = {name: at.hashes[key] for name, key in at.names("worker") if key in at.hashes}
        reported = {name: worker for name, worker in reported.items() if "pool" in worker}
        if at.hash("meta").get("open") == "1" and "restored" not in at.sets:
            self.same("workers", set(at.zset("workers")) - self._unheard(), reported)
        slots: Counter[str] = Counter()
        numbers: Counter[str] = Counter()
        for worker in reported.values():
            slots[worker["pool"]] += max(0, int(worker["slots"]) - int(worker["busy"]))
            numbers[worker["pool"]] += 1
        pools = {pool: str(number) for pool, number in slots.items()}
        self.same("pools", at.hash("pools").items(), pools.items())
        shown = {pool: str(number) for pool, number in numbers.items()}
        self.same("pool_workers", at.hash("pool_workers").items(), shown.items())
        busy = self.jobs_in(State.RUNNING, State.STOPPING)
        self.needs_recorded(busy)
        members: dict[str, set[str]] = {}
        for job_id, job in busy.items():
            members.setdefault(f"worker:{job['worker']}:jobs", set()).add(job_id)
            if "pool" in job:
                members.setdefault(f"running:{job['pool']}", set()).add(job_id)
        known = {
            key for name, key in at.names("worker") if name.endswith(":jobs") and key in at.sets
        }
        for key in {*members, *known, *(key for _, key in at.names("running"))}:
            self.same(key, at.set(key), members.get(key, set()))

    def _unheard(self) -> set[str]:
        # After a restore a worker is known by its jobs alone until it has reported.
        return {
            name for name in self.at.zset("workers") if "pool" not in self.at.hash(f"worker:{name}")
        }

    def ends(self) -> None:
        for entry in self.at.zset("ends"):
            kind, _, resource = entry.partition(" ")
            if resource not in self.at.hash(f"{kind}s"):
                self.note("ends", f"{entry} ends what there is not")

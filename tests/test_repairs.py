"""Verification and repair: whatever is broken in the ledger is found, mended, and no job is lost or run twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.jobs import Event, Job
from coordinator.recovery.recorder import Recorder
from coordinator.resources import needs_of
from coordinator.settings import Settings
from coordinator.verification import verify
from coordinator.work_queue import WorkQueue


class Site:
    """A work queue, its recorder, and a worker that runs two jobs when told to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.queue = WorkQueue(Settings(redis_url=url, data_dir=folder, lease_seconds=30))
        assert self.queue.ensure_open()
        self.ledger, self.store = self.queue.ledger, self.queue.store
        self.redis, self.prefix = self.ledger.redis, self.ledger.prefix
        self.recorder = Recorder(self.ledger, self.store, self.ignore, "test")
        self.hand: dict[str, int] = {}
        self.ran: Counter[str] = Counter()
        self.renew(register=True)

    def ignore(self, event: Event, row: Any) -> None:
        """No result to deliver: nobody waits for one here."""

    def renew(self, register: bool = False) -> None:
        answer = self.ledger.renew("w", ["q"], 2, hand=self.hand.items(), register=register)
        for job_id in answer.lost:
            self.hand.pop(job_id, None)

    def submit(self, number: int, **more: Any) -> None:
        jobs = []
        for index in range(number):
            job_id = f"j{index}"
            needs = needs_of("q", (f"m{index % 3}",), f"o{index % 2}")
            message = json.dumps({"headers": {"id": job_id}})[:-2]
            jobs.append(Job(job_id, "task", "q", needs, message, f"o{index % 2}", **more))
        self.queue.submit_all(jobs)
        self.record()

    def record(self) -> None:
        while self.recorder.tick():
            pass

    def start(self) -> None:
        """Begin what the broker has."""
        while text := self.redis.rpop("q"):
            headers = json.loads(text)["headers"]
            job_id, token = headers["id"], headers["coordinator_token"]
            if self.ledger.claim(job_id, token, f"{job_id} {token}", "w").granted:
                self.hand[job_id] = token
                self.ran[job_id] += 1

    def finish(self) -> None:
        for job_id, token in list(self.hand.items()):
            assert self.ledger.finish(job_id, token, "completed").answer == "done"
            del self.hand[job_id]

    def work_off(self, jobs: int) -> None:
        for _ in range(10 * jobs):
            self.renew()
            self.ledger.tick()
            self.start()
            self.finish()
            self.record()
            states = self.redis.hgetall(f"{self.prefix}counts")
            if not any(int(number) for number in states.values()):
                return
        raise AssertionError(f"never ended: {states}")


@pytest.fixture
def site(redis_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(redis_url, tmp_path)
    yield site
    site.ledger.pool.disconnect()


def test_a_sound_ledger_has_no_drift(site: Site) -> None:
    site.submit(12)
    site.start()
    found = site.queue.verify_locks()
    assert (found.drift, found.left) == ((), ())
    assert site.ledger.drift() is not None
    assert site.ledger.drift()[0] == 0  # type: ignore[index]  # asserted above


#: What somebody with redis-cli, or a bug, may do to each kind of key: (commands, what the report must name).
DAMAGE: dict[str, tuple[list[tuple[Any, ...]], str]] = {
    "a holder too many": ([("SADD", "holders:model:m2", "ghost")], "holders:model:m2"),
    "a running job's unit": ([("SREM", "holders:model:m0", "j0")], "holders:model:m0"),
    "all lanes": ([("DEL", "lanes:queue:q", "lanes:model:m0", "lanes:model:m1")], "lanes:"),
    "what is blocked": ([("DEL", "blocked")], "blocked"),
    "the counts": ([("HSET", "counts", "q|waiting", 99)], "counts"),
    "the pools": ([("DEL", "pools")], "pools"),
    "a worker's jobs": ([("DEL", "worker:w:jobs")], "worker:w:jobs"),
    "a message": ([("DEL", "message:j9")], "message:*"),
    "a job": ([("DEL", "job:j10")], "j10"),
    "a state": ([("HSET", "job:j11", "state", "sleeping")], "j11"),
    "a foreign key": ([("SET", "nonsense", 1)], "nonsense"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_broken_is_found_and_mended(site: Site, damage: str) -> None:
    commands, named = DAMAGE[damage]
    site.submit(12)
    site.start()
    assert len(site.hand) == 2
    for name, *arguments in commands:
        keys = len(arguments) if name == "DEL" else 1
        site.redis.execute_command(
            name, *(f"{site.prefix}{key}" for key in arguments[:keys]), *arguments[keys:]
        )
    found = site.queue.verify_locks()
    assert any(named in str(item) for item in found.drift), found.drift
    assert found.left == found.drift, "without a repair nothing changes"
    running = dict(site.hand)
    repaired = site.queue.verify_locks(repair=True, reason="a test", by="ann")
    assert repaired.drift
    assert not repaired.left, repaired.left
    (note,) = site.store.audit(event="repaired")
    assert (note["who"], note["why"]) == ("ann", "a test")
    site.renew()
    assert dict(site.hand) == running, "what runs keeps its lock"
    site.work_off(12)
    assert site.ran == dict.fromkeys((f"j{number}" for number in range(12)), 1)
    assert not verify(site.ledger)


def test_any_damage_is_mended(site: Site) -> None:
    """A random key of the ledger is deleted, again and again."""
    draw = random.Random(5)
    site.submit(12)
    for _ in range(12):
        site.start()
        keys = sorted(
            key
            for key in site.redis.scan_iter(f"{site.prefix}*")
            # The events and terms are the recorder's and the restorer's own; without meta there is no epoch.
            if key.removeprefix(site.prefix).split(":")[0] not in ("events", "leader", "meta")
        )
        site.redis.delete(draw.choice(keys))
        left = site.queue.verify_locks(repair=True).left
        assert not left, left
        site.renew()
        site.ledger.tick()
        assert site.ledger.restoring() is None, "all workers have reported"
        site.finish()
        site.record()
    site.work_off(12)
    assert site.ran == dict.fromkeys((f"j{number}" for number in range(12)), 1)


def test_an_accepted_row_that_the_ledger_lost_is_drift(site: Site) -> None:
    site.submit(2)
    site.ledger.hold("queue:q", "ann")
    message = json.dumps({"headers": {"id": "late"}})[:-2]
    site.store.insert([Job("late", "task", "q", needs_of("q", (), None), message)])
    (drift,) = site.queue.verify_locks().drift
    assert (drift.subject, drift.problem) == (
        "job:late",
        "was accepted, and the ledger does not know it",
    )
    found = site.queue.verify_locks(repair=True)
    assert (found.mended, found.rebuilt, found.left) == ({"jobs_entered": 1}, False, ())


def test_a_limit_that_left_the_settings_leaves_the_ledger(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, limits={"model:m": 3, "serial": 2})
    earlier = WorkQueue(settings)
    assert earlier.ensure_open()
    earlier.configure()
    earlier.ledger.limit("model:m", 5, "ann", "for good")
    later = WorkQueue(replace(settings, limits={"model:n": 2}))
    later.configure()
    names = ["model:m", "model:n", "serial", "queue:q"]
    found = later.ledger.limits(names)
    assert [found[name].value for name in names] == [5, 2, None, None]
    later.ledger.limit("model:m", None, "ann", "as configured")
    assert later.ledger.limits(names)["model:m"].value == settings.default_models_limit
    # Rolled out side by side, the one that started last counts.
    earlier.configure()
    assert earlier.ledger.limits(names)["model:m"].value == 3
    for queue in (earlier, later):
        queue.ledger.pool.disconnect()
        queue.store.close()

"""The ledger: a job that stands by in a process for the end of a short one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coordinator.ledger import Ledger
from coordinator.verification import verify
from tests.helpers import eventually
from tests.ledger_driver import Driver, at

__all__ = ["at"]


@pytest.fixture
def by(at: Driver) -> Driver:
    """A ledger that knows its tasks to be short, with a worker of ten slots; ``a`` runs, ``b`` and ``c`` are next."""
    at.ledger.configure({"ahead_ms": "100"})
    at.redis.hset("t:runtimes", "task", "1.0")
    at.work()
    for job_id in ("a", "b", "c"):
        at.submit(job_id, "m")
    assert claim(at, "a") == "granted"
    return at


def claim(at: Driver, job_id: str, process: str = "first", worker: str = "w") -> str:
    """Claim the last delivery of a job; its nonce is that of the delivery, so that a repetition is one."""
    at.redis.lrem(at.state(job_id, "queue"), 1, delivery(at, job_id))
    return str(
        at.ledger.run("claim", job_id, at.token(job_id), f"{job_id}-n", worker, process)["answer"]
    )


def delivery(at: Driver, job_id: str) -> str:
    mark = ',"coordinator_standby":1' if at.state(job_id, "marked") == "1" else ""
    return f'{at.ledger.message(job_id)}{mark},"coordinator_token":{at.token(job_id)}}}}}'


def finish(at: Driver, job_id: str, outcome: str = "completed") -> tuple[str, ...]:
    return at.ledger.finish(job_id, at.token(job_id), outcome).started


def states(at: Driver, *job_ids: str) -> list[str]:
    return [at.state(job_id) for job_id in job_ids or ("a", "b", "c")]


def turn(at: Driver, job_id: str) -> int:
    return int(at.redis.llen(f"t:turn:{at.token(job_id)}"))


def holders(at: Driver) -> set[str]:
    return set(at.redis.smembers("t:holders:model:m"))


def test_the_next_job_is_brought_and_begins_when_the_first_ends(by: Driver) -> None:
    assert states(by) == ["running", "dispatched", "waiting"]
    assert by.redis.lrange("q", 0, -1) == [delivery(by, "b")]
    assert '"coordinator_standby":1' in delivery(by, "b")
    assert claim(by, "b") == claim(by, "b") == "standby"
    assert (holders(by), turn(by, "b")) == ({"a"}, 0)
    assert finish(by, "a") == ("b",)
    assert (holders(by), turn(by, "b")) == ({"b"}, 1)
    assert claim(by, "b", "last") == claim(by, "b", "last") == "granted"
    assert states(by) == ["completed", "running", "dispatched"], "and the one after it is brought"
    assert by.state("b", "attempts") == "1"


def test_one_that_comes_when_the_first_is_over_begins_at_once(by: Driver) -> None:
    finish(by, "a")
    assert (holders(by), turn(by, "b")) == ({"b"}, 0)
    assert claim(by, "b") == "granted"


def test_it_waits_by_itself_for_its_turn(by: Driver) -> None:
    token = by.token("b")

    def ask(ledger: Ledger) -> Any:
        return ledger.claim("b", token, "n", "w", stands_by=True)

    def end(ledger: Ledger) -> Any:
        return ledger.finish("a", by.token("a"), "completed")

    claimed, _ = by.at_once([ask, end])
    assert claimed.granted
    assert by.ledger.claim("c", by.token("c"), "n", "w", stands_by=True).answer == "stale"
    assert states(by) == ["completed", "running", "waiting"], "c stood by for as long as it may"


def test_whoever_stood_by_for_too_long_waits_at_its_old_place(by: Driver) -> None:
    assert claim(by, "b") == "standby"
    assert claim(by, "b", "last") == "stale"
    assert states(by) == ["running", "waiting", "waiting"]
    assert (by.ledger.redis.hgetall("t:standby"), by.redis.llen("q")) == ({}, 0)
    assert finish(by, "a") == ("b",)


@pytest.mark.parametrize("knocks", [False, True])
def test_what_stands_by_is_canceled_like_any_other(by: Driver, knocks: bool) -> None:
    if knocks:
        assert claim(by, "b") == "standby"
    assert by.ledger.cancel("b", "why not", "me")["answer"] == "done"
    assert by.redis.llen("q") == 0
    assert finish(by, "a") == ("c",)
    assert holders(by) == {"c"}


def test_a_process_that_cannot_stand_by_gives_it_back(by: Driver) -> None:
    assert claim(by, "b", "") == "stale"
    assert states(by) == ["running", "waiting", "waiting"]
    assert claim(by, "a", "") == "granted", "asked again"
    assert finish(by, "a") == ("b",)
    assert claim(by, "b", "") == "granted"
    assert states(by, "c") == ["waiting"], "and brings none"


def test_a_paused_model_is_given_to_nobody(by: Driver) -> None:
    assert claim(by, "b") == "standby"
    by.ledger.hold("model:m", "maintenance")
    assert finish(by, "a") == ()
    assert claim(by, "b", "last") == "held"
    assert states(by) == ["completed", "waiting", "waiting"]
    by.ledger.resume("model:m", "me")
    assert states(by) == ["completed", "dispatched", "waiting"]


@pytest.mark.parametrize("outcome", ["released", "lost"])
def test_a_job_that_comes_back_goes_before_the_one_that_was_next(by: Driver, outcome: str) -> None:
    assert claim(by, "b") == "standby"
    assert finish(by, "a", outcome) == ("a",)
    assert (states(by), holders(by)) == (["dispatched", "waiting", "waiting"], {"a"})
    assert claim(by, "b", "last") == "stale"


def test_a_job_whose_worker_is_gone_is_not_waited_for(by: Driver) -> None:
    by.work("x")
    assert claim(by, "b", worker="x") == "standby"
    by.redis.zadd("t:workers", {"x": by.now() - 1})
    assert finish(by, "a") == ("b",)
    assert by.state("b", "standby") == "gone"
    assert claim(by, "b") == "granted", "it went to another worker"
    by.ledger.tick()


def test_a_worker_that_was_fenced_since_stands_by_no_more(by: Driver) -> None:
    by.work("x")
    assert claim(by, "b", worker="x") == "standby"
    by.redis.zadd("t:workers", {"x": by.now() - 1})
    by.ledger.tick()
    by.shift(1)
    by.work("x")
    assert finish(by, "a") == ("b",)
    assert by.state("b") == "dispatched", "again, to whoever takes it"


def test_of_two_deliveries_one_stands_by(by: Driver) -> None:
    token = by.token("b")
    first, second = (
        by.ledger.run("claim", "b", token, nonce, "w", "first")["answer"] for nonce in ("n1", "n2")
    )
    assert (first, second) == ("standby", "stale")


def test_a_process_whose_waiting_is_broken_off_asks_once_more(by: Driver) -> None:
    def break_off(ledger: Any) -> None:
        ledger.redis.client_unblock(eventually(blocked, 5, 0.005), error=True)

    def blocked() -> int:
        found = [one for one in by.redis.client_list() if one["cmd"] == "blpop"]
        assert found
        return int(found[0]["id"])

    token = by.token("b")
    claimed, _ = by.at_once(
        [lambda ledger: ledger.claim("b", token, "n", "w", stands_by=True), break_off]
    )
    assert claimed.answer == "stale"
    assert states(by) == ["running", "waiting", "waiting"]


def test_an_older_job_whose_time_has_come_goes_first(by: Driver) -> None:
    by.ledger.cancel("b", "enough", "me")
    by.ledger.cancel("c", "enough", "me")
    finish(by, "a")
    by.submit("old", "m", due_ms=by.now() + 60_000)
    by.submit("d", "m")
    claim(by, "d")
    by.submit("e", "m")
    claim(by, "d")
    by.submit("f", "m")
    by.ledger.run("bring", "d")
    assert states(by, "old", "d", "e") == ["delayed", "running", "dispatched"]
    by.shift(60_000)
    by.redis.zadd("t:workers", {"w": by.now() + 60_000})
    by.ledger.tick()
    assert states(by, "old", "d", "e") == ["waiting", "running", "waiting"]
    assert finish(by, "d") == ("old",)


def test_a_paused_queue_sends_back_what_stands_by(by: Driver) -> None:
    assert claim(by, "b") == "standby"
    by.ledger.hold("queue:q", "maintenance")
    assert finish(by, "a") == ()
    assert (states(by, "b"), holders(by)) == (["waiting"], set())
    by.ledger.resume("queue:q", "me")
    assert states(by, "b") == ["dispatched"]


def test_a_closed_model_is_given_to_nobody(by: Driver) -> None:
    assert claim(by, "b") == "standby"
    by.ledger.limit("model:m", 0, "me")
    finish(by, "a")
    assert (holders(by), claim(by, "b", "last")) == (set(), "stale")
    assert states(by) == ["completed", "waiting", "waiting"]


def test_nobody_stands_by_for_a_long_job_in_the_last_slot_or_before_those_who_need_one(
    at: Driver,
) -> None:
    at.ledger.configure({"ahead_ms": "100"})
    at.redis.hset("t:runtimes", mapping={"task": "1.0", "long": "5000"})
    at.work(slots=2)
    for job_id, model, task in [
        ("a", "m", "long"),
        ("b", "m", "task"),
        ("c", "n", "task"),
        ("d", "n", "task"),
    ]:
        at.submit(job_id, model, task=task)
    claim(at, "a")
    claim(at, "c")
    assert states(at, "a", "b", "c", "d") == ["running", "waiting"] * 2
    at.work(slots=3)
    at.submit("e", "o", task="task")
    assert claim(at, "c") == "granted", "asked again, which brings nobody"
    finish(at, "c")
    claim(at, "d")
    assert states(at, "b", "d", "e") == ["waiting", "running", "dispatched"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_restored_ledger_takes_only_what_may_have_begun_for_running(
    at: Driver, begun: bool
) -> None:
    at.work()
    at.submit("a", "m")
    at.start("a")
    at.submit("b", "m")
    at.ledger.open(1, "0", ["w"])
    later = at.token("a") + 1
    hand = [("b", later)]
    if not begun:
        at.ledger.renew("w", ["q"], 10, hand=hand, unbegun=("b",))
        at.ledger.tick()
        assert at.ledger.restoring() is not None, "its process may begin it this very moment"
    answer = at.ledger.renew("w", ["q"], 10, hand=hand if begun else ())
    assert (at.state("b"), answer.lost) == ("running" if begun else "waiting", ())
    at.ledger.tick()
    assert at.ledger.restoring() is None
    at.ledger.cancel("b", "enough", "me")
    at.ledger.finish("b", later, "released")


class World:
    """Random operations on a few models; whoever holds one alone is its only holder."""

    def __init__(self, at: Driver, seed: int) -> None:
        self.at, self.random, self.number = at, random.Random(seed), 0
        self.hand: dict[str, bool] = {}
        self.stood = 0
        self.alive = {"w", "x"}

    OFTEN = ("submit", "submit", "fetch", "finish", "resume")
    SELDOM = ("wait", "cancel", "hold", "die", "tick")

    def step(self) -> None:
        getattr(self, self.random.choice(self.OFTEN * 4 + self.SELDOM))()

    def one_of(self, begun: bool) -> str | None:
        found = sorted(job_id for job_id, runs in self.hand.items() if runs == begun)
        return self.random.choice(found) if found else None

    def model(self) -> str:
        return f"model:{self.random.choice('mno')}"

    def submit(self) -> None:
        self.number += 1
        models = self.random.sample("mno", self.random.choice([1, 1, 1, 2]))
        more: dict[str, Any] = {"priority": self.random.choice([3, 5, 5])}
        self.at.submit(f"j{self.number}", *models, **more)

    def fetch(self) -> None:
        if found := self.at.redis.lindex("q", -1):
            self.ask(found.split('"id":"')[1].split('"')[0], "first")

    def wait(self) -> None:
        if job_id := self.one_of(begun=False):
            self.ask(job_id, "last")

    def finish(self) -> None:
        if job_id := self.one_of(begun=True):
            del self.hand[job_id]
            outcomes = ["completed"] * 4 + ["failed", "released", "lost"]
            finish(self.at, job_id, self.random.choice(outcomes))
        for other in sorted(job_id for job_id, begun in self.hand.items() if not begun):
            if self.at.redis.lpop(f"t:turn:{self.at.token(other)}"):
                self.ask(other, "last")

    def cancel(self) -> None:
        if job_id := self.one_of(begun=False):
            self.at.ledger.cancel(job_id, "no more", "me")

    def hold(self) -> None:
        if self.random.random() < 0.2:
            self.at.ledger.hold(self.model(), "for a while")

    def resume(self) -> None:
        self.at.ledger.resume(self.model(), "me")

    def tick(self) -> None:
        self.at.ledger.tick()

    def die(self) -> None:
        if self.random.random() < 0.8:
            return
        worker = self.random.choice(sorted(self.alive))
        self.at.redis.zadd("t:workers", {worker: self.at.now() - 1})
        self.at.ledger.tick()
        self.hand = {
            job_id: begun
            for job_id, begun in self.hand.items()
            if begun and self.at.state(job_id, "worker") != worker
        }
        self.at.work(worker, slots=20)

    def ask(self, job_id: str, process: str) -> None:
        answer = claim(self.at, job_id, process, self.random.choice(sorted(self.alive)))
        self.stood += answer == "standby"
        if answer in ("granted", "standby"):
            self.hand[job_id] = answer == "granted"
        else:
            self.hand.pop(job_id, None)

    def check(self) -> None:
        assert not verify(self.at.ledger)
        for model in "mno":
            held = self.at.redis.smembers(f"t:holders:model:{model}")
            assert len(held) <= 1
        for job_id, begun in self.hand.items():
            if begun and self.at.state(job_id) == "running":
                for need in self.at.state(job_id, "needs").split():
                    assert job_id in self.at.redis.smembers(f"t:holders:{need}")


@pytest.mark.parametrize("seed", range(12))
def test_random_orders_keep_every_model_to_one_holder(at: Driver, seed: int) -> None:
    at.ledger.configure({"ahead_ms": "100", "queue:q": "100"})
    at.redis.hset("t:runtimes", "task", "1.0")
    world = World(at, seed)
    for worker in world.alive:
        at.work(worker, slots=20)
    for _ in range(150):
        world.step()
        world.check()
    assert world.stood > 0
    at.ledger.configure({"ahead_ms": "-1"})
    for model in "mno":
        at.ledger.resume(f"model:{model}", "me")
    # What a worker that died had fetched comes back when its dispatch lease ends, and so does what runs.
    at.shift(60_000)
    world.hand.clear()
    while at.ledger.tick().get("more"):
        pass
    for worker in world.alive:
        at.work(worker, slots=20)
    for _ in range(3 * world.number + 50):
        at.ledger.tick()
        for job_id in [*world.hand]:
            if world.hand.pop(job_id):
                finish(at, job_id)
            else:
                world.ask(job_id, "last")
        if found := at.redis.lindex("q", -1):
            world.ask(found.split('"id":"')[1].split('"')[0], "first")
    ended = {at.state(f"j{number}") for number in range(1, world.number + 1)}
    assert ended <= {"completed", "failed", "canceled", "unprocessable"}

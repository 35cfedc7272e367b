"""The ledger against its model: any order of operations, faults and steps of the clock."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import ledger_marathon
from tests.ledger_world import World

NUMBER = st.integers(0, 30)
REPLAY = st.booleans()
SPEC = st.fixed_dictionaries(
    {
        "models": st.lists(st.integers(0, 3), max_size=3),
        "queue": st.integers(0, 2),
        "priority": st.sampled_from([5, 5, 5, 0, 9]),
        "org": st.integers(0, 3),
        "max_retries": st.sampled_from([3, 0, 1, -1]),
    }
)
SUCCESSOR = st.fixed_dictionaries(
    {
        "models": st.lists(st.integers(0, 3), max_size=3),
        "queue": st.integers(0, 2),
        "priority": st.sampled_from([5, 0, 9]),
        "org": st.integers(0, 3),
    }
)
OUTCOMES = ["completed"] * 4 + ["failed", "unprocessable", "lost", "released"]
DELAYS = st.sampled_from([0, 0, 0, 5, 45, 4000])


class LedgerMachine(RuleBasedStateMachine):
    """Drives a ``World``; every rule checks ledger against model and surroundings."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.world: World

    @initialize(orgs=st.sampled_from([(None,), ("acme",), ("acme", "ümlaut", None)]))
    def begin(self, orgs: tuple[str | None, ...]) -> None:
        self.world = World(self.url, orgs)
        self.world.join([0, 1], 2)

    @rule(specs=st.lists(SPEC, min_size=1, max_size=4), replay=REPLAY)
    def submit(self, specs: list[dict[str, Any]], replay: bool) -> None:
        self.world.submit(specs, replay=replay)

    @rule(specs=st.lists(SPEC, min_size=1, max_size=2), delay=DELAYS, expires=DELAYS)
    def submit_timed(self, specs: list[dict[str, Any]], delay: int, expires: int) -> None:
        self.world.submit(specs, delay, expires)

    @rule(number=NUMBER)
    def submit_again(self, number: int) -> None:
        self.world.submit_again(number)

    @rule(queues=st.lists(st.integers(0, 2), min_size=1, max_size=3), slots=st.integers(0, 3))
    def join(self, queues: list[int], slots: int) -> None:
        if len(self.world.workers) < 4:
            self.world.join(queues, slots)

    @rule(
        number=NUMBER,
        queues=st.lists(st.integers(0, 2), max_size=3),
        slots=st.none() | st.integers(0, 3),
        busy=st.integers(0, 2),
        replay=REPLAY,
    )
    def renew(
        self, number: int, queues: list[int], slots: int | None, busy: int, replay: bool
    ) -> None:
        self.world.renew(number, queues, slots, busy, replay)

    @rule(number=NUMBER, queue=NUMBER)
    def pop(self, number: int, queue: int) -> None:
        self.world.pop(number, queue)

    @rule(number=NUMBER, which=NUMBER, replay=REPLAY, told=st.sampled_from([True] * 4 + [False]))
    def claim(self, number: int, which: int, replay: bool, told: bool) -> None:
        self.world.claim(number, which, replay, told)

    @rule(number=NUMBER)
    def work(self, number: int) -> None:
        """Fetch and begin at once, as most do: else few jobs ever run."""
        if self.world.workers:
            for queue in range(3):
                self.world.pop(number, queue)
            self.world.claim(number, 0)

    @rule(number=NUMBER, other=st.booleans())
    def claim_stale(self, number: int, other: bool) -> None:
        self.world.claim_stale(number, other)

    @rule(number=NUMBER, outcome=st.sampled_from(OUTCOMES), replay=REPLAY)
    def finish(self, number: int, outcome: str, replay: bool) -> None:
        self.world.finish(number, outcome, replay=replay)

    @rule(
        number=NUMBER,
        outcome=st.sampled_from(["retried", "replaced"]),
        delay=DELAYS,
        successor=st.none() | SUCCESSOR,
        replay=REPLAY,
    )
    def follow(
        self,
        number: int,
        outcome: str,
        delay: int,
        successor: dict[str, Any] | None,
        replay: bool,
    ) -> None:
        self.world.finish(number, outcome, delay, successor, replay)

    @rule(number=NUMBER)
    def finish_stale(self, number: int) -> None:
        self.world.finish_stale(number)

    @rule(number=NUMBER)
    def crash(self, number: int) -> None:
        self.world.crash(number)

    @rule(number=NUMBER, which=NUMBER, end=st.booleans(), replay=REPLAY)
    def undeliver(self, number: int, which: int, end: bool, replay: bool) -> None:
        self.world.undeliver(number, which, end, replay)

    @rule(number=NUMBER, kind=st.sampled_from(["cancel", "release"]), replay=REPLAY)
    def stop(self, number: int, kind: str, replay: bool) -> None:
        self.world.stop(number, kind, replay)

    @rule(number=NUMBER)
    def cut_off(self, number: int) -> None:
        self.world.cut_off(number)

    @rule(number=NUMBER)
    def kill(self, number: int) -> None:
        self.world.kill(number)

    @rule(number=NUMBER, replay=REPLAY)
    def leave(self, number: int, replay: bool) -> None:
        self.world.leave(number, replay)

    @rule(seconds=st.sampled_from([1, 10, 29, 70]))
    def silence(self, seconds: int) -> None:
        self.world.pass_time(seconds, renewing=False)

    @rule(seconds=st.sampled_from([2, 35]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds, renewing=True)

    @rule(seconds=st.sampled_from([-600, -40, -5, 5, 40, 3600]))
    def jump(self, seconds: int) -> None:
        self.world.jump(seconds)

    @rule()
    def tick(self) -> None:
        self.world.tick()

    @rule(number=NUMBER, seconds=DELAYS, replay=REPLAY)
    def hold(self, number: int, seconds: int, replay: bool) -> None:
        self.world.hold(number, seconds, replay)

    @rule(number=NUMBER, replay=REPLAY)
    def resume(self, number: int, replay: bool) -> None:
        self.world.resume(number, replay)

    @rule(number=NUMBER, value=st.none() | st.integers(0, 3), seconds=DELAYS, replay=REPLAY)
    def limit(self, number: int, value: int | None, seconds: int, replay: bool) -> None:
        self.world.limit(number, value, seconds, replay)

    @rule(
        name=st.sampled_from(["serial", "org", "org:alpha", "queue:alpha", "queue:be.ta%d"]),
        value=st.none() | st.integers(0, 3),
    )
    def configure(self, name: str, value: int | None) -> None:
        self.world.configure({name: value})

    @rule(count=st.sampled_from([1, 7, 10_000]))
    def settle(self, count: int) -> None:
        self.world.settle(count)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def elected_once(self) -> None:
        ledger = self.world.ledger
        assert ledger.elect("recorder", "a", 60_000)
        assert not ledger.elect("recorder", "b", 60_000)
        ledger.resign("recorder", "a")

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.drain()
            finally:
                self.world.close()


def _run(url: str, examples: int, steps: int, same: bool = False) -> None:
    machine = type("Machine", (LedgerMachine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            # The same orders in every run of the suite: what nobody changed must not fail one day.
            derandomize=same,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_operations_agrees_with_the_model(redis_url: str) -> None:
    _run(redis_url, examples=25, steps=30, same=True)


def test_random_schedules_with_faults(redis_url: str) -> None:
    total = ledger_marathon.run(redis_url, schedules=5, steps=60, seed=1)
    assert (total["schedules"], total["failures"]) == (5, 0)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_long_orders_of_operations_agree_with_the_model(redis_url: str) -> None:
    _run(redis_url, examples=300, steps=80)

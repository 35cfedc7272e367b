"""The ledger: epochs, broken connections, and operations at the same moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import redis

from coordinator.errors import LedgerClosed, LedgerUnavailable
from coordinator.ledger import Ledger
from tests.ledger_driver import Driver, at

__all__ = ["at"]


def test_another_life_of_the_server_is_refused(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    run_id = at.redis.hget("t:meta", "run_id")
    at.redis.hset("t:meta", "run_id", "another")
    with pytest.raises(LedgerClosed):
        at.submit("b", "m")
    assert at.ledger.epoch() is None
    at.redis.hset("t:meta", "run_id", run_id)
    assert at.ledger.epoch() == 1
    assert at.ledger.job("b") is None


def test_what_is_freed_while_admission_is_closed_starts_when_it_opens(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    at.submit("b", "m")
    token = at.start("a")
    at.ledger.open(1, "0", ["w", "x"])
    assert at.ledger.finish("a", token, "completed").started == ()
    assert at.submit("c", "n") == "waiting"
    at.ledger.renew("w", ["q"], 10)
    at.ledger.tick()
    assert (at.state("b"), at.state("c")) == ("waiting", "waiting")
    at.ledger.renew("x", ["q"], 10, register=True)
    at.ledger.tick()
    assert (at.state("b"), at.state("c")) == ("dispatched", "dispatched")


def test_operation_goes_on_when_its_connection_breaks(at: Driver) -> None:
    at.work()
    at.submit("a", "m")
    with redis.Redis.from_url(at.url) as other:
        for number in range(5):
            other.client_kill_filter(_type="normal", skipme=True)
            assert at.submit(f"b{number}", "m") == "waiting"
            other.script_flush()
            assert at.submit(f"b{number}", "m") == "waiting"
    assert at.ledger.counts()["q", "waiting"] == 5


def test_server_that_is_not_there_is_said_so() -> None:
    ledger = Ledger("redis://127.0.0.1:1/0", patience=0.1)
    with pytest.raises(LedgerUnavailable):
        ledger.tick()


def test_term_of_a_singleton(at: Driver) -> None:
    assert at.ledger.elect("recorder", "a", 60_000)
    assert at.ledger.elect("recorder", "a", 60_000)
    assert not at.ledger.elect("recorder", "b", 60_000)
    at.ledger.resign("recorder", "b")
    assert not at.ledger.elect("recorder", "b", 60_000)
    at.ledger.resign("recorder", "a")
    assert at.ledger.elect("recorder", "b", 60_000)


def test_settled_jobs_leave_a_trace_that_goes_by_itself(at: Driver) -> None:
    at.work()
    at.submit("a", "m", expires_ms=at.now() + 60_000)
    at.ledger.finish("a", at.start("a"), "completed")
    at.submit("b", "m", due_ms=at.now() + 60_000)
    at.ledger.cancel("b", "", "")
    events = at.ledger.read_events(1000)
    at.ledger.settle(events[:-1])
    assert at.redis.ttl("t:job:a") > 0
    assert at.redis.ttl("t:job:b") == -1, "its end is not committed"
    at.ledger.settle(events)
    at.ledger.settle(events)
    assert at.submit("a", "m") == "completed", "its producer lost the reply"
    at.ledger.leave("w")
    left = set(at.redis.scan_iter("t:*")) - {"t:job:a", "t:job:b"}
    assert left == {"t:meta", "t:defaults", "t:counts", "t:runtimes", "t:events"}
    assert [event.verb for event in at.ledger.read_events(10)] == ["worker_left"]
    assert at.ledger.counts() == {}


def test_many_producers_and_workers_at_once(at: Driver) -> None:
    at.work("w", ("q",), 4)
    runs: list[str] = []

    def produce(number: int) -> Callable[[Ledger], None]:
        def call(ledger: Ledger) -> None:
            for item in range(15):
                ledger.submit([at.job(f"j{number}.{item}", f"m{item % 3}")])
                ledger.submit([at.job(f"shared{item}", f"m{item % 3}")])

        return call

    def consume(number: int) -> Callable[[Ledger], None]:
        def call(ledger: Ledger) -> None:
            idle = 0
            while idle < 10:
                found = ledger.redis.brpop(["q"], timeout=0.05)
                if not found:
                    idle += 1
                    continue
                idle = 0
                headers = json.loads(found[1])["headers"]
                job_id, token = headers["id"], headers["coordinator_token"]
                if ledger.claim(job_id, token, f"{number}.{token}", "w").granted:
                    runs.append(job_id)
                    ledger.finish(job_id, token, "completed")

        return call

    at.at_once(
        [*(produce(number) for number in range(3)), *(consume(number) for number in range(4))]
    )
    assert len(runs) == len(set(runs)) == 3 * 15 + 15
    assert all(event.data["attempts"] == 1 for event in at.events("started"))
    held: Counter[str] = Counter()
    for event in at.events("dispatched", "completed"):
        model = next(need for need in at.job("x", *_model(event.job_id)).needs)
        held[model] += 1 if event.verb == "dispatched" else -1
        assert held[model] <= 1


def _model(job_id: str) -> tuple[str]:
    number = job_id.removeprefix("shared").rpartition(".")[2]
    return (f"m{int(number) % 3}",)


def _claim(ledger: Ledger, job_id: str, token: int) -> str:
    return ledger.claim(job_id, token, "n", "w").answer


def _cancel(ledger: Ledger, job_id: str) -> str:
    return str(ledger.cancel(job_id, "", "")["answer"])


def test_cancel_against_claim(at: Driver) -> None:
    at.work()
    for round_ in range(15):
        job_id = f"a{round_}"
        at.submit(job_id, "m")
        token = at.token(job_id)
        calls = [
            partial(_claim, job_id=job_id, token=token),
            partial(_cancel, job_id=job_id),
        ]
        claimed, _ = at.at_once(calls)
        assert at.state(job_id) == ("stopping" if claimed == "granted" else "canceled")
        if claimed == "granted":
            at.ledger.finish(job_id, token, "released")
        assert at.state(job_id) == "canceled"
        at.redis.delete("q")

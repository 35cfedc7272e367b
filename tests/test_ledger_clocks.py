"""A machine whose clock is off: what it says of times is brought to Redis's clock."""

from __future__ import annotations

import time

import pytest

from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.resources import needs_of


def _job(job_id: str, due_ms: int = 0, expires_ms: int = 0) -> Job:
    needs = needs_of("q", ("m",), None, None)
    return Job(
        job_id, "t", "q", needs, '{"headers": {"id": "x"', due_ms=due_ms, expires_ms=expires_ms
    )


@pytest.fixture
def ledger(redis_url: str) -> Ledger:
    ledger = Ledger(redis_url, patience=0.5)
    ledger.open(1)
    ledger.renew("w", ["q"], 1, register=True)
    return ledger


@pytest.mark.parametrize("off", [-3600, 0, 3600])
def test_due_and_expiry_are_by_the_clock_of_redis(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + off * 10**9)
    there = time.time_ns() // 10**6
    ledger.submit([_job("a", due_ms=there + 10_000, expires_ms=there + 20_000)])
    job = ledger.job("a") or {}
    assert abs(int(job["due"]) - ledger.clock() - 10_000) < 1000
    assert abs(int(job["expires"]) - ledger.clock() - 20_000) < 1000


def test_a_retry_of_a_worker_in_the_future_is_not_late(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.submit([_job("a")])
    token = int((ledger.job("a") or {})["token"])
    assert ledger.claim("a", token, "nonce", "w").granted
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
    ledger.finish("a", token, "retried", successor=_job("a", due_ms=time.time_ns() // 10**6 + 4000))
    assert abs(int((ledger.job("a") or {})["due"]) - ledger.clock() - 4000) < 1000


def test_what_the_reaper_enters_is_left_as_it_is(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = ledger.clock() + 10_000
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
    ledger.submit([_job("a", due_ms=due)], ["entered"])
    assert int((ledger.job("a") or {})["due"]) == due

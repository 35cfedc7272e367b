"""The tests' own tools: what waits stops waiting, and what was started is gone afterwards."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import redis

from tests.helpers import eventually, running, session_of

FAMILY = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], process_group=0)
print(child.pid, flush=True)
signal.pause()
"""


def test_eventually_returns_the_first_truthy_answer() -> None:
    answers = iter([0, "", "here", "later"])
    assert eventually(lambda: next(answers), interval=0) == "here"


def test_eventually_raises_the_last_assertion() -> None:
    def never() -> None:
        raise AssertionError("two holders")

    with pytest.raises(AssertionError, match="two holders"):
        eventually(never, timeout=0.01, interval=0.001)
    with pytest.raises(AssertionError, match="last answer: 0"):
        eventually(lambda: 0, timeout=0.01, interval=0.001)


def test_nothing_survives_that_was_started(tmp_path: Path) -> None:
    """Not even a child in a process group of its own, of a parent that ignores the polite signal."""
    log = tmp_path / "log"
    with running("python", "-c", FAMILY, log=log, grace=0.2) as process:
        child = int(eventually(lambda: log.read_text().strip()))
        assert {member.pid for member in session_of(process.pid)} == {process.pid, child}
    assert session_of(process.pid) == []


def test_redis_is_a_real_one_and_empty(redis_client: redis.Redis) -> None:
    assert redis_client.dbsize() == 0
    redis_client.set("left", "behind")
    assert redis_client.eval("return redis.call('GET', KEYS[1])", 1, "left") == "behind"


def test_redis_is_empty_again(redis_client: redis.Redis) -> None:
    assert redis_client.get("left") is None


@pytest.mark.postgres
def test_postgres_is_a_real_one_and_empty(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        count = connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchone()
        assert count == (0,)

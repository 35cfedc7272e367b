"""The ledger on a Redis that is there and says no: what is asked of it waits as if it were away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from redis._parsers.base import BaseParser

from coordinator.errors import LedgerFull, LedgerUnavailable
from coordinator.ledger.absence import is_away, is_full
from tests.helpers import eventually
from tests.ledger_driver import Driver, at

__all__ = ["at"]


@contextmanager
def a_replica(at: Driver, folder: Path) -> Iterator[None]:
    at.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        at.redis.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def a_full_disk(at: Driver, folder: Path) -> Iterator[None]:
    before = at.redis.config_get("dir")["dir"]
    gone = folder / "gone"
    gone.mkdir()
    at.redis.config_set("dir", str(gone))
    gone.rmdir()
    at.redis.config_set("save", "3600 1")
    try:
        at.redis.bgsave()
        eventually(lambda: at.redis.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
    finally:
        at.redis.config_set("save", "")
        at.redis.config_set("dir", before)


@contextmanager
def a_long_script(at: Driver, folder: Path) -> Iterator[None]:
    at.redis.config_set("lua-time-limit", 1)

    def loop() -> None:
        with redis.Redis.from_url(at.url) as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    def is_busy(client: redis.Redis) -> bool:
        try:
            client.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    thread = threading.Thread(target=loop)
    with redis.Redis.from_url(at.url) as client:
        thread.start()
        try:
            eventually(lambda: is_busy(client))
            yield
        finally:
            client.script_kill()
            thread.join()
    at.redis.config_set("lua-time-limit", 5000)


Trouble = Callable[[Driver, Path], AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", [a_replica, a_full_disk, a_long_script])
def test_the_end_of_a_run_is_told_when_redis_is_itself_again(
    at: Driver, tmp_path: Path, trouble: Trouble
) -> None:
    at.work()
    at.submit("a", "m")
    token = at.start("a")
    ledger = at.ledger
    with ThreadPoolExecutor(1) as threads:
        with trouble(at, tmp_path):
            with pytest.raises(LedgerUnavailable, match="Redis cannot do it now"):
                ledger.finish("a", token, "completed", patience=0)
            with pytest.raises(LedgerUnavailable):
                ledger.run("renew", "w", "", 10, 0, "q", "{}", "a", token, "1", patience=0)
            told = threads.submit(ledger.finish, "a", token, "completed", patience=60)
            with pytest.raises(TimeoutError):
                told.result(0.3)
        assert told.result(60).answer == "done"
    assert at.state("a") == "completed"


def test_looks_at_a_busy_redis_are_answered_as_if_it_were_away(at: Driver, tmp_path: Path) -> None:
    with a_long_script(at, tmp_path):
        for look in (at.ledger.epoch, at.ledger.clock, lambda: at.ledger.standing(["a"])):
            with pytest.raises(LedgerUnavailable):
                look()


def test_a_full_redis_refuses_what_is_new_in_the_ledgers_own_words(at: Driver) -> None:
    at.work()
    at.redis.config_set("maxmemory", "100kb")
    try:
        with pytest.raises(LedgerFull) as caught:
            at.submit("a", "m")
        assert caught.value.allowed == 102_400 < caught.value.used
        at.ledger.patience = 0.1
        with pytest.raises(LedgerUnavailable, match="Redis cannot do it now"):
            at.ledger.submit([at.job("a", "m")], insist=True)
    finally:
        at.redis.config_set("maxmemory", "0")
    assert at.submit("a", "m") == "dispatched"


SCRIPT = "ERR Error running script (call to f_0a): @user_script:7: @user_script: 7: "

AWAY = [
    "READONLY You can't write against a read only replica. script: 0a, on @user_script:7.",
    f"{SCRIPT}-READONLY You can't write against a read only replica. ",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk.",
    f"{SCRIPT}-MISCONF Errors writing to the AOF file: No space left on device ",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "OOM command not allowed when used memory > 'maxmemory'. script: 0a, on @user_script:7.",
    f"{SCRIPT}-OOM command not allowed when used memory > 'maxmemory'. ",
]


@pytest.mark.parametrize("text", AWAY)
def test_every_way_of_saying_not_now_is_known(text: str) -> None:
    error = BaseParser.parse_error(text)
    assert is_away(error)
    assert is_full(error) == ("OOM" in text)


@pytest.mark.parametrize(
    "text",
    [
        f"{SCRIPT}attempt to compare number with nil",
        f"{SCRIPT}no job READONLY or BUSY is known",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "NOPERM this user has no permissions to run the 'evalsha' command",
    ],
)
def test_an_error_of_a_script_is_none_of_them(text: str) -> None:
    assert not is_away(BaseParser.parse_error(text))

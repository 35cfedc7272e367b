"""The HTTP API while Redis or the database is away, slow or forgetful: 503 and when to come again, never 500."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from coordinator.web.problems import Failed
from coordinator.web.threads import THREADS, WAITING, Threads
from tests.helpers import eventually, free_port, redis_executable, running

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.web_site import Site
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

LOOKS = ("/jobs", "/status", "/queue/status", "/work_queue_status", "/workers", "/locks", "/orgs")


@contextlib.contextmanager
def server(port: int, log: Path) -> Iterator[None]:
    command = (redis_executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    with running(*command, log=log, grace=0):
        with redis.Redis(port=port) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            eventually(answers)
        yield


def test_redis_away_and_back(
    open_site: type[Site], open_desk: type[Desk], alone: Installation, tmp_path: Path
) -> None:
    port = free_port()
    own = dataclasses.replace(alone, broker=f"redis://127.0.0.1:{port}/0")
    with server(port, tmp_path / "redis.log"):
        desk = open_desk(own)
        site = open_site(desk)
        first = site.post("/jobs", {"task": "play", "model": "m"}, 202)["job_id"]
    desk.ledger.patience = 0.2
    for path in LOOKS[1:]:
        response = site.ask("GET", path)
        assert response.status_code == 503, (path, response.text)
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["content-type"] == "application/problem+json"
    # What the database alone knows is told; and a job is accepted: it waits until Redis is back.
    assert [job["job_id"] for job in site.get("/jobs")["jobs"]] == [first]
    assert site.ask("POST", "/queues/work/pause", json={}).status_code == 503
    assert site.get("/health")["is_healthy"] is False
    told = site.post("/jobs", {"task": "play"}, 202, headers={"Idempotency-Key": "k"})
    assert (told["state"], "accepted" in told["conflict_reason"]) == ("waiting", True)
    with server(port, tmp_path / "redis.log"):
        # It comes back empty, and no worker is there to restore it: the first request does.
        desk.ledger.patience = 10
        numbers = site.get("/queue/status")
        assert numbers["queue_length"] == 2
        again = site.post("/jobs", {"task": "play"}, 202, headers={"Idempotency-Key": "k"})
        assert again["job_id"] == told["job_id"]
    desk.ledger.pool.disconnect()
    own.redis.close()


@pytest.mark.parametrize("scope", ["viewer", "admin"])
def test_the_database_away(site: Site, scope: str) -> None:
    store = site.desk.queue.store
    store.close()
    path = store.url.database
    assert path is not None
    here = Path(path)
    away = here.rename(here.with_suffix(".away"))
    # A folder in its place: the file cannot be made anew.
    here.mkdir()
    for method, where in (("GET", "/jobs"), ("GET", "/session"), ("POST", "/jobs")):
        response = site.ask(method, where, scope)
        assert response.status_code == 503, response.text
        assert int(response.headers["retry-after"]) > 0
    assert site.client.get("/live").status_code == 200
    here.rmdir()
    away.rename(here)
    store.close()
    site.get("/jobs")


def test_a_call_that_hangs_is_given_up_and_others_go_on() -> None:
    async def act() -> None:
        threads, gate = Threads(0.2), threading.Event()
        hanging = [asyncio.create_task(threads.run(gate.wait)) for _ in range(THREADS + WAITING)]
        await asyncio.gather(*(asyncio.wait({task}, timeout=0) for task in hanging[:1]))
        with pytest.raises(Failed, match="too much") as found:
            await threads.run(lambda: 1)
        assert found.value.status == 503
        for task in hanging:
            with pytest.raises(Failed, match="not answered within"):
                await task
        gate.set()
        # Threads that hung are free again, and what waited for one was never begun.
        answer: Any = None
        while answer is None:
            with contextlib.suppress(Failed):
                answer = await threads.run(lambda: 7)
        assert answer == 7
        threads.close()

    asyncio.run(act())

"""Live updates: whoever falls behind, never begins, or comes too many, harms nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.web import feed as feeds
from coordinator.web.feed import Feed
from coordinator.web.problems import Failed
from coordinator.web.threads import Threads

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry
    from tests.desk import Desk

pytest_plugins = ["tests.workers", "tests.desk"]


def every(_: AuditEntry) -> bool:
    return True


async def next_entry(lines: AsyncIterator[str]) -> Any:
    async with asyncio.timeout(20):
        async for line in lines:
            if "data: " in line:
                return json.loads(line.partition("data: ")[2])
    return None


async def ends(lines: AsyncIterator[str]) -> list[str]:
    async with asyncio.timeout(20):
        return [line async for line in lines]


def test_notes_and_events_come_once_each(desk: Desk) -> None:
    async def act() -> None:
        threads = Threads(20)
        feed = Feed(desk.queue, threads)
        await threads.run(desk.record)
        lines = await feed.listen(every)
        job_id = await threads.run(desk.send)
        # Written at once, ahead of what the recorder brings later.
        await threads.run(lambda: desk.queue.store.note("tested", "ann"))
        await threads.run(desk.record)
        seen = [
            (one["event"], one["job_id"]) for one in [await next_entry(lines) for _ in range(3)]
        ]
        assert sorted(seen) == [("dispatched", job_id), ("submitted", job_id), ("tested", "")]
        await threads.run(lambda: desk.queue.store.note("last", "ann"))
        assert (await next_entry(lines))["event"] == "last"
        feed.close()
        assert await ends(lines) == []
        with pytest.raises(Failed):
            await feed.listen(every)
        threads.close()

    asyncio.run(act())


def test_who_falls_behind_is_cut_off_and_told_the_rest_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "BEHIND", 3)

    async def act() -> None:
        threads = Threads(20)
        feed = Feed(desk.queue, threads)
        lazy, busy = await feed.listen(every), await feed.listen(every)
        store = desk.queue.store
        await threads.run(lambda: store.note("first", "ann"))
        entry = await next_entry(busy)
        for number in range(5):
            await threads.run(partial(store.note, f"n{number}", "ann"))
            assert (await next_entry(busy))["event"] == f"n{number}"
        # What was in its line until then, and no more.
        told = [line for line in await ends(lazy) if "data" in line]
        assert [json.loads(line.partition("data: ")[2])["event"] for line in told] == [
            "first",
            "n0",
            "n1",
        ]
        again = await feed.listen(every, entry["cursor"])
        assert [(await next_entry(again))["event"] for _ in range(5)] == [
            f"n{number}" for number in range(5)
        ]
        monkeypatch.setattr(feeds, "PAGE", 5)
        lost = await feed.listen(every, entry["cursor"])
        assert await anext(lost) == "retry: 2000\n\n"
        assert (await anext(lost)).startswith("event: gap")
        feed.close()
        threads.close()

    asyncio.run(act())


def test_the_reader_outlives_what_nobody_thought_of(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def act() -> None:
        threads = Threads(20)
        feed = Feed(desk.queue, threads)
        lines = await feed.listen(every)
        look, failures = feed._look, [KeyError("what nobody thought of")] * 2

        def stumbling() -> list[AuditEntry]:
            if failures:
                raise failures.pop()
            return look()

        monkeypatch.setattr(feed, "_look", stumbling)
        await threads.run(lambda: desk.queue.store.note("first", "ann"))
        assert (await next_entry(lines))["event"] == "first", "nothing is missed"
        assert failures == []
        feed.close()
        threads.close()

    asyncio.run(act())
    told = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in told] == [
        "[COORDINATOR] no live updates; tried again until it works"
    ]


def test_too_many_are_refused_and_those_who_never_began_are_forgotten(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LISTENERS", 2)

    async def act() -> None:
        threads = Threads(20)
        feed = Feed(desk.queue, threads)
        # Their first line is never asked for.
        kept = [await feed.listen(every) for _ in range(2)]
        with pytest.raises(Failed, match="too many"):
            await feed.listen(every)
        monkeypatch.setattr(feeds, "LONGEST", -1.0)
        for one in list(feed._listeners):
            one.until = 0.0
        assert [line for line in await ends(await feed.listen(every)) if "data" in line] == []
        assert len(kept) == 2
        feed.close()
        threads.close()

    asyncio.run(act())

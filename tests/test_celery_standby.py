"""Standing by, in real workers: short jobs of one model follow each other without a message's way between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import billiard
import pytest

from coordinator.running import begun
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


def told(own: Installation, result: Any, verb: str) -> list[dict[str, Any]]:
    history = own.work_queue.store.history(result.id)
    return [event["data"] for event in history if event["event_type"] == verb]


def test_short_jobs_of_a_model_stand_by_and_keep_their_order(alone: Installation) -> None:
    with alone.worker(concurrency=3):
        results = [alone.play(["spin", 0.05], ["give", n], model="m") for n in range(12)]
        assert [alone.get(result) for result in results] == list(range(12))
        assert [alone.runs(result) for result in results] == [1] * 12
        lines = sorted(
            (line["at"], line["event"], number)
            for number, result in enumerate(results)
            for line in alone.trace(result)
            if line["event"] in ("start", "end")
        )
        assert [(event, number) for _, event, number in lines] == [
            (event, number) for number in range(12) for event in ("start", "end")
        ]

        def stood() -> int:
            number = sum("standby" in told(alone, one, "dispatched")[0] for one in results)
            assert number > 3
            return number

        eventually(stood, 20)


def test_one_that_stood_by_in_vain_leaves_its_process_to_others(alone: Installation) -> None:
    with alone.worker(concurrency=2):
        # One model after the other, so that the task is known to be short.
        assert [alone.get(alone.play(["give", n], model="m")) for n in range(3)] == [0, 1, 2]
        gate = alone.gate()
        first = alone.play(["give", 3], model="m")
        long = alone.play(["wait", gate], ["give", 4], model="m")
        behind = alone.play(["give", 5], model="m")
        alone.becomes(long, "running")
        # Both processes would wait for the same gate, if the second one went on standing by.
        assert alone.get(alone.play(["give", 6], model="other")) == 6
        alone.becomes(behind, "waiting")
        alone.open(gate)
        assert [alone.get(one) for one in (first, long, behind)] == [3, 4, 5]
        assert alone.runs(behind) == 1
        assert alone.trace(behind)[0]["at"] > alone.trace(long)[-1]["at"]


@pytest.fixture
def process() -> Iterator[tuple[Any, Any]]:
    """A process as those of a pool, and a pipe to it: it begins the jobs that it is told, and ends at \"\"."""
    here, there = billiard.Pipe()

    def obey() -> None:
        while job_id := there.recv():
            begun.begin(job_id, 7) if job_id != "end" else begun.end()
            there.send(begun.can_stand_by())

    begun.share()
    child: Any = billiard.Process(target=obey)
    child.index = 3
    child.start()
    yield child, here
    here.send("")
    child.join()
    here.close()


def test_the_main_process_knows_what_has_begun(process: tuple[Any, Any]) -> None:
    _, pipe = process

    def tell(word: str) -> bool:
        pipe.send(word)
        return bool(pipe.recv())

    assert not begun.has_begun("a", 7)
    assert tell("a")
    assert (begun.has_begun("a", 7), begun.has_begun("b", 7)) == (True, False)
    assert not begun.has_begun("a", 8), "another delivery"
    assert tell("b")
    assert (begun.has_begun("a", 7), begun.has_begun("b", 7)) == (False, True)
    assert tell("end")
    assert not begun.has_begun("b", 7)
    assert not begun.can_stand_by(), "the main process is none of them"

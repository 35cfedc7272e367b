"""The live display: what it tells, on a terminal, in lines and in JSON; without any server."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from rich.console import Console

from coordinator.errors import LedgerUnavailable, Refused
from coordinator.machine.display import JsonLines, Lines, Screen, line, screen, sparkline
from coordinator.machine.processes import Process
from coordinator.machine.snapshot import (
    Headline,
    JobLine,
    ModelLine,
    QueueLine,
    Snapshot,
    Source,
    changes,
    read_jobs,
)

RUNNING = Process("redis", "running", 11, 61, 0, "")
FAILING = Process("beat", "backoff", 0, 0, 3, "Exited too quickly")
CHESS = ModelLine("chess", 3, 240, 0.61, 312.4, (0.0, 100.0, 312.4), "training")
RUNS = JobLine("a" * 36, "tasks.training.train", ("chess",), "training", "w", 75, 2, "3/10")
WAITS = JobLine("b" * 36, "tasks.selfplay.play", ("chess",), waits_for="chess in use", position=1)
SNAPSHOT = Snapshot(
    at=0,
    state="running",
    addresses={"flower": "http://127.0.0.1:5555"},
    processes=(RUNNING, FAILING),
    models=(CHESS,),
    jobs=(WAITS, RUNS),
    queues=(QueueLine("training", 2, 1, 0, 1), QueueLine("selfplay", paused="ann: upgrade")),
    completed_hour=17,
    headlines=(Headline(1, 0, "chess reached generation 3"),),
)


def shown(snapshot: Snapshot, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, height=60)
    with console.capture() as capture:
        console.print(screen(snapshot, width))
    return capture.get()


@pytest.mark.parametrize("width", [80, 160])
def test_the_screen_tells_everything(width: int) -> None:
    text = shown(SNAPSHOT, width)
    assert "17 completed" in text
    for part in ("chess", "240", "61%", "+312", "▁▃█", "training.train", "run 2", "3/10", "#1"):
        assert part in text, part
    for part in ("chess in use", "1m15s", "1m01s", "backoff", "Exited", "5555"):
        assert part in text, part
    assert "chess reached generation 3" in text
    assert max(map(len, text.splitlines())) <= width


def test_names_are_text_and_not_markup() -> None:
    odd = replace(SNAPSHOT, models=(replace(CHESS, model="[red]x[/nope]"),))
    assert "[red]x[/nope]" in shown(odd, 160)


def test_an_empty_snapshot_can_be_shown() -> None:
    assert "starting" in shown(Snapshot(), 80)
    assert "starting 0/0 processes" in line(Snapshot())


def test_a_line_tells_what_counts() -> None:
    text = line(SNAPSHOT)
    assert "running 1/2 processes" in text
    assert "beat backoff: Exited too quickly" in text
    assert "chess gen 3, 240 games, 61% won, Elo +312 ▁▃█ (training)" in text
    assert "training 1 running 3 waiting" in text
    assert "PAUSED (ann: upgrade)" in text
    assert "tasks.selfplay.play: chess in use" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("values", "bars"),
    [((), ""), ((5,), "▁"), ((5, 5), "▁▁"), ((0, 7), "▁█"), ((-7, 0, 7), "▁▅█")],
)
def test_a_sparkline_spans_its_values(values: Sequence[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_sparkline_shows_the_latest() -> None:
    assert sparkline(range(100), width=3) == "▁▅█"


def test_lines_come_every_few_seconds_and_with_every_headline() -> None:
    now = [0.0]
    out = io.StringIO()
    with Lines(out, every=5, clock=lambda: now[0]) as lines:
        for second in range(11):
            now[0] = float(second)
            lines.show(SNAPSHOT)
    told = out.getvalue().splitlines()
    assert len(told) == 1 + 3
    assert told[0].endswith("* chess reached generation 3")


def test_json_lines_are_json() -> None:
    out = io.StringIO()
    with JsonLines(out) as lines:
        lines.show(SNAPSHOT)
    headline, snapshot = map(json.loads, out.getvalue().splitlines())
    assert headline["headline"]["text"] == "chess reached generation 3"
    assert snapshot["snapshot"]["models"][0]["elo_history"] == [0.0, 100.0, 312.4]


def test_a_screen_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=40, legacy_windows=False)
    with Screen(console) as display:
        display.show(SNAPSHOT)
    written = out.getvalue()
    assert written.index("\x1b[?1049h") < written.index("chess") < written.index("\x1b[?1049l")


def test_changes_worth_a_headline() -> None:
    before = replace(SNAPSHOT, state="starting", processes=(RUNNING, replace(FAILING, why="")))
    assert changes(SNAPSHOT, SNAPSHOT) == []
    assert changes(before, SNAPSHOT) == [
        "all 2 processes are running",
        "beat is backoff: Exited too quickly",
    ]
    later = replace(
        SNAPSHOT,
        processes=(replace(RUNNING, restarts=1), FAILING),
        models=(replace(CHESS, generation=4, elo=400.0),),
        queues=(QueueLine("training", paused="bob"), QueueLine("selfplay")),
        problem="no Redis",
    )
    assert changes(SNAPSHOT, later) == [
        "redis was started again (restart 1)",
        "chess reached generation 4, Elo +400",
        "queue training is paused: bob",
        "queue selfplay is resumed",
        "no Redis",
    ]


def test_a_generation_is_reached_by_all_models_or_not_at_all() -> None:
    assert SNAPSHOT.reached(3)
    assert not SNAPSHOT.reached(4)
    assert not replace(SNAPSHOT, models=(CHESS, replace(CHESS, generation=2))).reached(3)
    assert not Snapshot().reached(1)


@dataclass(frozen=True)
class Active:
    id: str = "a"
    task: str = "train"
    queue: str = "training"
    models: tuple[str, ...] = ("chess",)
    worker: str | None = "training@host"
    started_ms: int = 0
    attempt: int = 2
    progress: dict[str, Any] = field(default_factory=lambda: {"done": 3, "total": 10})


@dataclass(frozen=True)
class Blocked:
    id: str = "b"
    task: str = "play"
    models: tuple[str, ...] = ("chess",)
    conflict_reason: str | None = "Model conflict: chess in use by normal job a"
    queue_position: int | None = 1


class Answers:
    """Canned answers in the shape of the work queue's."""

    def __init__(self) -> None:
        self.up = False

    def get_stats(self) -> dict[str, Any]:
        return {"completed_hour": 5, "failed_hour": 1}

    def queues(self) -> list[QueueLine]:
        return [QueueLine("training", waiting=1, running=1)]

    def active(self) -> list[Active]:
        if not self.up:
            raise LedgerUnavailable("Redis cannot be reached")
        return [Active(), replace(Active(), id="c", progress={"loss": 0.5})]

    def blocked(self, limit: int) -> list[Blocked]:
        return [Blocked(), replace(Blocked(), id="d", conflict_reason=None)][:limit]


def test_jobs_are_read_with_what_they_wait_for() -> None:
    answers = Answers()
    answers.up = True
    jobs, queues = read_jobs(answers)
    assert [job.progress for job in jobs] == ["3/10", "loss 0.5", "", ""]
    assert [job.waits_for for job in jobs[2:]] == [
        "Model conflict: chess in use by normal job a",
        "its turn",
    ]
    assert jobs[0].seconds > 0
    assert queues == [QueueLine("training", waiting=1, running=1)]


def test_the_source_tells_what_it_cannot_read_and_goes_on() -> None:
    answers = Answers()
    processes = [RUNNING]
    models = [CHESS]

    def summary() -> list[ModelLine]:
        if not answers.up:
            raise ZeroDivisionError("no games")
        return models

    source = Source(lambda: processes, {"redis": "here"}, answers, summary)
    first = source()
    assert (first.jobs, first.models) == ((), ())
    assert first.problem == "Redis cannot be reached; summary: ZeroDivisionError: no games"
    answers.up = True
    models[0] = replace(CHESS, generation=4)
    second = source()
    assert (second.problem, second.completed_hour, len(second.jobs)) == ("", 5, 4)
    models[0] = replace(CHESS, generation=5)
    texts = [headline.text for headline in source().headlines]
    assert texts == [
        "all 1 processes are running",
        first.problem,
        "chess reached generation 5, Elo +312",
    ]


def test_no_supervisor_is_told_as_starting() -> None:
    def refused() -> list[Process]:
        raise Refused("coordinator up does not run")

    snapshot = Source(refused, {})()
    assert (snapshot.state, snapshot.problem) == ("starting", "coordinator up does not run")

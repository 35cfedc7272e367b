"""A small real Celery app on the embedded Redis, for the tests of ``coordinator up``."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

from coordinator.embedded import redis_url
from coordinator.settings import load

QUEUES = {name: {"workers": 0} for name in ("training", "evaluation", "maintenance")}
QUEUES["selfplay"] = {"workers": 1}

settings = load({"coordinator_queues": QUEUES})
games = settings.data_dir / "games"

app = Celery("plain", broker=redis_url(settings), backend=redis_url(settings))
app.conf.task_default_queue = "selfplay"
app.conf.broker_connection_retry_on_startup = True
app.conf.coordinator_queues = QUEUES
app.conf.coordinator_summary = "tests.plain_app:summary"
app.conf.beat_schedule = {"play": {"task": "play", "schedule": 0.2}}


@app.task(name="play", shared=False)
def play() -> int:
    """Play a game: one more byte in a file."""
    with games.open("ab") as file:
        file.write(b".")
    return games.stat().st_size


@app.task(name="hold")
def hold(started: str) -> None:
    """Do not come back, in a process of its own."""
    Path(started).touch()
    subprocess.run(["sleep", "600"], check=True)


@dataclass(frozen=True)
class Line:
    model: str
    generation: int
    games: int
    win_rate: float | None
    elo: float | None
    elo_history: tuple[float, ...]
    activity: str


def summary() -> list[Line]:
    """Two games make a generation."""
    played = games.stat().st_size if games.exists() else 0
    history = tuple(10.0 * number for number in range(played // 2 + 1))
    return [Line("chess", played // 2, played, 0.5, history[-1], history, "playing")]

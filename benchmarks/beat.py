"""Celery's beat for the app under test, without Celery's command line."""

from __future__ import annotations

import sys

from celery import signals

from benchmarks.tasks_app import FOLDER, app


def _ready(**_: object) -> None:
    (FOLDER / "ready" / "beat").touch()


def main() -> int:
    signals.beat_init.connect(_ready, weak=False)
    app.Beat(loglevel="WARNING", schedule=str(FOLDER / "beat-schedule")).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Profiles: of this process, and what all of them show."""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Row


def profiles(folder: Path) -> str:
    """Return the functions that took most time of every profile in a folder, as text."""
    text = io.StringIO()
    for path in sorted(folder.rglob("*.prof")):
        text.write(f"\n== {path.relative_to(folder)}\n")
        stats = pstats.Stats(str(path), stream=text)
        stats.sort_stats("tottime").print_stats(25)
    return text.getvalue()


def profiled(action: Callable[[], list[Row]], path: Path) -> list[Row]:
    """Run an action in this process under the profiler."""
    profile = cProfile.Profile()
    try:
        return profile.runcall(action)
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile.dump_stats(path)

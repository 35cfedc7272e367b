"""What a job tells of its progress, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def progress_text(progress: Mapping[str, Any]) -> str:
    """Return what a job tells of its progress: ``500/800 games, epoch 3``."""
    left = dict(progress)
    parts = []
    if "done" in left:
        done, total, unit = left.pop("done"), left.pop("total", None), left.pop("unit", "")
        text = f"{_number(done)}" if total is None else f"{_number(done)}/{_number(total)}"
        parts.append(f"{text} {unit}".rstrip())
    return ", ".join([*parts, *(f"{name} {value}" for name, value in left.items())])


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Thresholds: when a circuit breaker opens, a queue counts as unhealthy, an alert is raised. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from coordinator.errors import InvalidSetting

#: From where on something is degraded (or a warning), and unhealthy (or critical).
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PanicSettings:
    """When a circuit breaker opens and closes by itself.

    Attributes:
        every: seconds between two looks by beat; 0 is never.
        window: seconds that are looked back.
        volume: jobs that must have ended in the window before their share of failures says anything.
        percent: share of failures from which on it opens.
        cooldown: seconds until the first probe; twice as long after each probe that failed.
        cooldown_most: seconds that a cool-down lasts at most.
        probes: runs that must succeed, one at a time, before it closes.
    """

    every: float = 5.0
    window: float = 300.0
    volume: int = 10
    percent: float = 50.0
    cooldown: float = 60.0
    cooldown_most: float = 3600.0
    probes: int = 3


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """From where on a queue is degraded, and unhealthy.

    Attributes:
        capacity: percent of its limit in use.
        waiting: jobs pending.
        failed: percent of the jobs that ended in the last hour.
        wait: seconds that the jobs of the last hour waited on average.
    """

    capacity: Pair = (80.0, 95.0)
    waiting: Pair = (1000.0, 5000.0)
    failed: Pair = (5.0, 10.0)
    wait: Pair = (30.0, 120.0)


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """When alerts are raised, and where they go.

    Attributes:
        every: seconds between two looks by beat; 0 is never.
        queue_depth: pending jobs of a queue above which it is a warning, and critical.
        queue_depth_for: seconds for which it has to be critical before it is.
        stuck_jobs: running jobs without progress above which it is critical.
        failure_rate: percent of failures in the last hour above which it is critical.
        failure_volume: jobs that must have ended before the rate says anything.
        time_since_completion: seconds without a completed job, while some are pending.
        worker_silent: seconds without a heartbeat of a worker that did not leave.
        webhook: URL that gets each alert as JSON, or None.
    """

    every: float = 30.0
    queue_depth: Pair = (500.0, 1000.0)
    queue_depth_for: float = 3600.0
    stuck_jobs: int = 10
    failure_rate: float = 50.0
    failure_volume: int = 10
    time_since_completion: float = 1800.0
    worker_silent: float = 300.0
    # Whoever knows it can post: many have their secret in the path.
    webhook: str | None = field(default=None, repr=False)


def _number(low: float, high: float = math.inf) -> Callable[[object], float]:
    def parse(value: object) -> float:
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        if not low <= number <= high or not math.isfinite(number):
            raise ValueError(
                f"a number from {low:g}" + (f" to {high:g}" if high < math.inf else "")
            )
        return number

    return parse


def _whole(low: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"a whole number from {low}")
        return value

    return parse


def _pair(value: object) -> Pair:
    number = _number(0)
    parts = list(value) if isinstance(value, list | tuple) else []
    try:
        first, second = (number(part) for part in parts)
    except ValueError:
        first, second = 1.0, 0.0
    if first > second:
        raise ValueError("two numbers from 0, the second not below the first")
    return first, second


def _url(value: object) -> str:
    parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL that begins with http:// or https://")
    return str(value)


_PARSERS: dict[type, dict[str, Callable[[object], Any]]] = {
    PanicSettings: {
        "every": _number(0),
        "window": _number(1, 86_400),
        "volume": _whole(1),
        "percent": _number(1, 100),
        "cooldown": _number(0.1),
        "cooldown_most": _number(0.1),
        "probes": _whole(1),
    },
    HealthSettings: {"capacity": _pair, "waiting": _pair, "failed": _pair, "wait": _pair},
    AlertSettings: {
        "every": _number(0),
        "queue_depth": _pair,
        "queue_depth_for": _number(0),
        "stuck_jobs": _whole(0),
        "failure_rate": _number(0, 100),
        "failure_volume": _whole(1),
        "time_since_completion": _number(1),
        "worker_silent": _number(1),
        "webhook": _url,
    },
}

#: The settings that are such groups, by name.
GROUPS: dict[str, type] = {
    "panic": PanicSettings,
    "health": HealthSettings,
    "alerts": AlertSettings,
}


def parsed(name: str, shown: str, value: object) -> Any:
    """Return one of the groups; what is not named has its default.

    Args:
        name: one of ``GROUPS``.
        shown: the setting as it was written, for errors.
        value: a mapping, or one as JSON (in the environment).

    Raises:
        InvalidSetting: an unknown option or a wrong value.
    """
    group = GROUPS[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidSetting(shown, value, "a mapping of options, as JSON") from None
    if not isinstance(value, Mapping):
        raise InvalidSetting(shown, value, "a mapping of options")
    parsers, known = _PARSERS[group], {}
    for option, item in value.items():
        if option not in parsers:
            raise InvalidSetting(shown, option, "one of " + ", ".join(parsers), parsers)
        if item is None:
            continue
        try:
            known[option] = parsers[option](item)
        except ValueError as error:
            raise InvalidSetting(f"{shown}[{option!r}]", item, str(error)) from None
    return group(**known)

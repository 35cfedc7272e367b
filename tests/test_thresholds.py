"""Thresholds are settings: defaults, the environment as JSON, errors that name the option."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from coordinator.errors import InvalidSetting
from coordinator.settings import load
from coordinator.thresholds import GROUPS, PanicSettings
from tests.helpers import ROOT


def test_what_is_not_named_has_its_default() -> None:
    settings = load({"coordinator_panic": {"percent": 30, "probes": None}}, {})
    assert settings.panic == PanicSettings(percent=30)
    assert settings.health.capacity == (80.0, 95.0)
    assert settings.alerts.webhook is None


def test_the_environment_has_them_as_json() -> None:
    environ = {
        "COORDINATOR_HEALTH": '{"wait": [1, 2]}',
        "COORDINATOR_ALERTS": '{"webhook": "http://localhost:1/x"}',
    }
    settings = load({"coordinator_health": {"wait": [5, 6]}}, environ)
    assert settings.health.wait == (1.0, 2.0)
    assert settings.alerts.webhook == "http://localhost:1/x"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("panic", {"percent": 0}, "coordinator_panic['percent']: 0 is not allowed: a number"),
        ("panic", {"percent": True}, "a number from 1 to 100"),
        ("panic", {"volume": 1.5}, "a whole number from 1"),
        ("panic", {"windows": 1}, "did you mean 'window'?"),
        ("panic", 5, "a mapping of options"),
        ("panic", "{", "a mapping of options, as JSON"),
        ("health", {"wait": [2, 1]}, "the second not below the first"),
        ("health", {"wait": 3}, "two numbers from 0"),
        ("alerts", {"webhook": "ftp://x"}, "http:// or https://"),
        ("alerts", {"every": float("nan")}, "a number from 0"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(said)):
        load({f"coordinator_{name}": value}, {})


def test_every_option_is_documented_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| ((?:panic|health|alerts) `\w+`) \| (\S.*?) \|", readme, re.M))
    defaults = {}
    for name, group in GROUPS.items():
        for item in fields(group):
            value = item.default
            if isinstance(value, tuple):
                text = "[" + ", ".join(f"{part:g}" for part in value) + "]"
            else:
                text = f"{value:g}" if isinstance(value, int | float) else "none"
            defaults[f"{name} `{item.name}`"] = f"`{text}`" if text != "none" else text
    assert table == defaults

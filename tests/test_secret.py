"""Secrets that are handed over as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.errors import InvalidSetting
from coordinator.secret import secret_of
from coordinator.settings import load


def test_a_setting_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:secret@redis:6379/0\n\n")
    assert load(environ={"COORDINATOR_REDIS_URL_FILE": str(file)}).redis_url == (
        "redis://:secret@redis:6379/0"
    )


def test_both_at_once_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://one")
    given = {"COORDINATOR_REDIS_URL": "redis://two", "COORDINATOR_REDIS_URL_FILE": str(file)}
    with pytest.raises(InvalidSetting, match="left out where COORDINATOR_REDIS_URL is given"):
        load(environ=given)


@pytest.mark.parametrize("content", [None, b"", b"\n secret", b"\xff\xfe"])
def test_a_file_without_a_secret_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSetting, match="X_FILE"):
        secret_of("X", {"X_FILE": str(file)})


def test_none_is_none() -> None:
    assert secret_of("X", {}) is None
    assert secret_of("X", {"X": ""}) is None
    assert secret_of("X", {"X": "y"}) == "y"

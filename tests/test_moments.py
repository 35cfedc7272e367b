"""Moments: one way to show them and to read them, in UTC wherever the machine is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import InvalidValue
from coordinator.moments import parse_moment, shown_clock, shown_moment
from coordinator.progress_text import progress_text
from coordinator.web.pages.words import exact
from tests.helpers import said

if TYPE_CHECKING:
    from tests.desk import Call, Desk

pytest_plugins = ["tests.workers", "tests.desk"]

#: 2026-11-22 12:44:03 UTC.
AT = 1_795_351_443.0


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own clock is five and a half hours ahead."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_moment_is_shown_in_utc_with_its_zone_and_read_back() -> None:
    assert time.localtime(AT).tm_hour == 18
    assert shown_moment(AT) == exact(AT) == "2026-11-22 12:44:03 UTC"
    assert (shown_moment(None), exact(None)) == ("-", "")
    assert shown_clock(AT, now=AT + 60) == "12:44 UTC"
    assert shown_clock(AT, seconds=True, now=AT) == "12:44:03 UTC"
    # The day is that of UTC too: here it is the 23rd already.
    assert shown_clock(AT, now=AT + 9 * 3600) == "12:44 UTC"
    assert shown_clock(AT, now=AT + 12 * 3600) == "2026-11-22 12:44 UTC"
    for text in (
        shown_moment(AT),
        "2026-11-22T12:44:03",
        "2026-11-22T12:44:03Z",
        "2026-11-22T18:14:03+05:30",
    ):
        assert parse_moment("since", text) == AT * 1000, text
    assert parse_moment("since", "2026-11-22") == (AT - 12 * 3600 - 44 * 60 - 3) * 1000


def test_an_age_is_read_as_every_duration_is() -> None:
    before = time.time()
    assert parse_moment("since", "1h30m") / 1000 == pytest.approx(before - 5400, abs=60)
    for wrong in ("", "yesterday", "1w", "12", "-5m", "25:00"):
        with pytest.raises(InvalidValue, match=r"since: .* 2026-01-31T12:00"):
            parse_moment("since", wrong)


def test_all_that_the_commands_show_can_be_given_back(desk: Desk, call: Call) -> None:
    desk.queue.pause("training", by="ann", reason="upgrade")
    desk.record()
    (entry,) = said(call("audit", "--event", "paused", "--json"))["entries"]
    shown = shown_moment(entry["at"])
    assert shown in call("audit", "--event", "paused").stdout
    assert f"by ann since {shown_clock(entry['at'])}: 'upgrade'" in call("status").stdout
    ended = shown_moment(entry["at"] + 1)
    assert said(call("audit", "--since", shown, "--event", "paused", "--json"))["entries"]
    assert not said(call("audit", "--since", ended, "--event", "paused", "--json"))["entries"]
    assert '"paused"' in call("db", "export", "--since", "1h30m").stdout
    assert "is not a time such as" in call("db", "export", "--since", "soon", code=2).stderr


def test_progress_is_told_the_same_everywhere() -> None:
    assert progress_text({"done": 3, "total": 10}) == "3/10"
    assert progress_text({"done": 500, "unit": "games", "epoch": 3}) == "500 games, epoch 3"
    assert progress_text({}) == ""

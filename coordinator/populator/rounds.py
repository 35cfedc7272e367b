"""The last round, kept in the store: by whomever it was done, any process can tell of it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from coordinator.durations import shown_duration
from coordinator.errors import StoreUnavailable
from coordinator.populator.wishes import Decision, Population

if TYPE_CHECKING:
    from coordinator.store import Store

NAME = "populator"

#: Seconds between two notes of rounds that decided the same, and since the last round that count as unhealthy.
NOTE_SECONDS, SILENT_SECONDS = 10.0, 60.0


class Rounds:
    """What the store has of the populator's rounds.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def last(self) -> Population:
        """Return the last round of any process.

        Raises:
            StoreUnavailable: not now.
        """
        return self._last()[0]

    def health(self) -> dict[str, Any]:
        """Return is_healthy, message, last_populate_time (Unix seconds) and items_added_hour; never raises."""
        try:
            last, minutes = self._last()
        except StoreUnavailable as error:
            return _health(False, str(error), None, 0)
        added = sum(number for _, number in minutes)
        if not last.at:
            message = "there was no round yet; is beat running? coordinator restart beat"
            return _health(False, message, None, added)
        ago = time.time() - last.at
        message = last.error
        if ago > SILENT_SECONDS:
            message = f"no round for {shown_duration(ago)}; coordinator restart populator"
        stopped = [one for one in last.decisions if one.code not in ("filled", "enough")]
        said = message or "; ".join(f"{one.queue}: {one.reason}" for one in stopped[:5])
        return _health(not message, said or "all wishes are met", last.at, added)

    def note(self, population: Population) -> None:
        """Keep a round; one that decided what the last one did is kept now and then only.

        Raises:
            StoreUnavailable: not now.
        """
        last, minutes = self._last()
        same = (last.decisions, last.error) == (population.decisions, population.error)
        if same and not population.added and population.at - last.at < NOTE_SECONDS:
            return
        minute = population.at // 60 * 60
        if population.added:
            before = sum(number for at, number in minutes if at == minute)
            minutes = [pair for pair in minutes if pair[0] != minute]
            minutes.append([minute, before + population.added])
        data = {
            "at": population.at,
            "added": population.added,
            "decisions": [asdict(one) for one in population.decisions],
            "error": population.error,
            "minutes": minutes,
        }
        state = "failed" if population.error else "done"
        self.store.set_condition(NAME, "last", state, int(population.at * 1000), data)

    def _last(self) -> tuple[Population, list[list[float]]]:
        known = self.store.conditions(NAME).get("last")
        if known is None:
            return Population(), []
        data = known.data
        hour_ago = time.time() - 3600
        minutes = [pair for pair in data["minutes"] if pair[0] > hour_ago]
        decisions = tuple(Decision(**one) for one in data["decisions"])
        return Population(data["at"], data["added"], decisions, data["error"]), minutes


def _health(healthy: bool, message: str, at: float | None, added: float) -> dict[str, Any]:
    return {
        "is_healthy": healthy,
        "message": message,
        "last_populate_time": at,
        "items_added_hour": int(added),
    }

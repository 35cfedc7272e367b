"""Playing strength from results: the most likely ratings on Elo's scale.

The model is Bradley and Terry's ("Rank Analysis of Incomplete Block Designs", Biometrika 39, 1952) on
the scale of Elo ("The Rating of Chessplayers, Past and Present", 1978): 400 points are odds of ten to one.
All results are weighed together, so it does not matter in which order they were played.
The log-likelihood is concave (Hunter, "MM Algorithms for Generalized Bradley-Terry Models", Annals of
Statistics 32, 2004), so Newton's method finds its one peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.numeric import np

SCALE = 400 / math.log(10)
_TOLERANCE = 1e-9
_MAX_STEP = 2.0
_MAX_ROUNDS = 500


@dataclass(frozen=True, slots=True)
class Result:
    """What ``player`` scored against ``opponent``: ``points`` out of ``games``, a draw being half a point."""

    player: str
    opponent: str
    points: float
    games: float


class NotConnected(ValueError):
    """No chain of games leads from a player to the anchor, so their ratings cannot be compared."""


def expected(rating: float, opponent: float) -> float:
    """Return the share of the points that a player rated ``rating`` takes from ``opponent``."""
    return 1 / (1 + 10 ** ((opponent - rating) / 400))


def _check_connected(results: list[Result], players: list[str], anchor: str) -> None:
    neighbours: dict[str, set[str]] = {player: set() for player in players}
    for result in results:
        neighbours[result.player].add(result.opponent)
        neighbours[result.opponent].add(result.player)
    seen, ahead = {anchor}, [anchor]
    while ahead:
        new = neighbours[ahead.pop()] - seen
        seen |= new
        ahead += new
    if missing := sorted(set(players) - seen):
        raise NotConnected(f"no games connect {', '.join(missing)} with {anchor}")


def ratings(results: Iterable[Result], anchor: str, prior_games: float = 1.0) -> dict[str, float]:
    """Return the most likely rating of every player.

    Args:
        results: who met whom and how it ended; several of one pair add up.
        anchor: the player whose rating is 0.
        prior_games: drawn games imagined for each pair that met. Without them a player who won
            every game would have no finite rating.

    Raises:
        NotConnected: a player with no chain of games to the anchor.
    """
    played = [result for result in results if result.games > 0 and result.player != result.opponent]
    players = sorted({name for r in played for name in (r.player, r.opponent)} | {anchor})
    _check_connected(played, players, anchor)
    index = {name: place for place, name in enumerate(players)}
    count = len(players)
    points = np.zeros((count, count))
    for result in played:
        one, two = index[result.player], index[result.opponent]
        points[one, two] += result.points
        points[two, one] += result.games - result.points
    met = (points + points.T) > 0
    points += met * (prior_games / 2)
    games = points + points.T
    scored = points.sum(axis=1)
    free = [place for place in range(count) if place != index[anchor]]
    strength = np.zeros(count)
    for _ in range(_MAX_ROUNDS):
        chance = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        slope = scored - (games * chance).sum(axis=1)
        bend = games * chance * chance.T
        curvature = np.diag(bend.sum(axis=1)) - bend
        step = np.zeros(count)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
        largest = float(np.abs(step).max(initial=0))
        # A full step from far away can jump over the peak into a region that is flat to rounding.
        strength += step * min(1.0, _MAX_STEP / largest) if largest else 0
        if largest < _TOLERANCE:
            break
    return {name: float(strength[place] * SCALE) for name, place in index.items()}

"""The gauntlet: is a candidate better than the champion, and how strong is it?"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tasks.elo import Result, ratings
from tasks.matches import Score, play_match
from tasks.models import ModelDefinition
from tasks.network import ValueNetwork
from tasks.players import LADDER, NetworkPlayer, Player, ladder_player

#: Called with (games done, games in all, opponent).
OnGame = Callable[[int, int, str], None]

CANDIDATE = "candidate"


def generation_name(number: int) -> str:
    return f"generation {number}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gauntlet found.

    Attributes:
        promoted: whether the candidate is rated above the champion.
        candidate_elo, champion_elo: ratings on one scale, random play being 0.
        elos: ratings of all generations that played.
        results: what was played, the candidate under its own name.
        scores: of the candidate by opponent.
        champion_win_rate: of the champion against random play, if it was measured here.
    """

    promoted: bool
    candidate_elo: float
    champion_elo: float
    elos: dict[int, float]
    results: list[Result]
    scores: dict[str, Score]
    champion_win_rate: float | None

    @property
    def win_rate(self) -> float:
        """Share of games that the candidate won against random play."""
        score = self.scores[LADDER[0]]
        return score.wins / score.games


def _fixtures(
    model: ModelDefinition, champion: int, earlier: list[int], known: set[tuple[str, str]]
) -> list[tuple[str, str, int]]:
    """Return who meets whom in how many games.

    The fixed opponents meet each other once in the life of a model, and so does the untrained
    network meet them; every later champion was a candidate before and has its results.
    """
    fixtures = []
    for one, two in zip(LADDER[1:], LADDER, strict=False):
        if (one, two) not in known:
            fixtures.append((one, two, model.ladder_games[one]))
    name = generation_name(champion)
    for contestant in (name, CANDIDATE):
        fixtures += [
            (contestant, rung, model.ladder_games[rung])
            for rung in LADDER
            if (contestant, rung) not in known
        ]
    fixtures.append((CANDIDATE, name, model.champion_games))
    fixtures += [(CANDIDATE, generation_name(one), model.earlier_games) for one in earlier]
    return fixtures


def earlier_generations(champion: int) -> list[int]:
    """Return the generations besides the champion that a candidate meets."""
    return sorted({0, champion // 2, champion - 1} - {champion, -1})


def run_gauntlet(
    model: ModelDefinition,
    candidate: ValueNetwork,
    champions: dict[int, ValueNetwork],
    known: tuple[Result, ...],
    seed: int,
    on_game: OnGame | None = None,
) -> Verdict:
    """Let a candidate meet the fixed opponents, the champion and earlier generations.

    Args:
        model: the definition.
        candidate: the network to judge.
        champions: networks by generation; the highest is the champion.
        known: earlier results of generations and fixed opponents.
        seed: of all chance; the same seed and networks give the same games.
        on_game: told of each game.
    """
    game = model.game
    champion = max(champions)
    networks = {generation_name(number): network for number, network in champions.items()}
    networks[CANDIDATE] = candidate

    def player(name: str, opponent: str) -> Player:
        if name in networks:
            return NetworkPlayer(game, networks[name])
        return ladder_player(game, name, zlib.crc32(f"{seed} {name} {opponent}".encode()) >> 1)

    earlier = [number for number in champions if number != champion]
    fixtures = _fixtures(model, champion, earlier, {(r.player, r.opponent) for r in known})
    total = sum(games for _, _, games in fixtures)
    done = 0
    scores: dict[tuple[str, str], Score] = {}
    for one, two, games in fixtures:

        def count(opponent: str = two) -> None:
            nonlocal done
            done += 1
            if on_game:
                on_game(done, total, opponent)

        chance = zlib.crc32(f"{seed} {one} {two} openings".encode())
        scores[one, two] = play_match(
            game, player(one, two), player(two, one), games, chance, count
        )
    results = [Result(*pair, score.points, score.games) for pair, score in scores.items()]
    rated = ratings([*known, *results], LADDER[0])
    name = generation_name(champion)
    first = scores.get((name, LADDER[0]))
    numbers = {generation_name(number): number for number in range(champion + 1)}
    return Verdict(
        promoted=rated[CANDIDATE] > rated[name],
        candidate_elo=rated[CANDIDATE],
        champion_elo=rated[name],
        elos={numbers[name]: elo for name, elo in rated.items() if name in numbers},
        results=results,
        scores={two: score for (one, two), score in scores.items() if one == CANDIDATE},
        champion_win_rate=first.wins / first.games if first else None,
    )

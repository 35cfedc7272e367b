"""A tournament: generations and variants of one game meet each other, which needs all their models at once."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from coordinator import NotRetryable
from tasks import app
from tasks.atomic import locked, replace_file
from tasks.elo import Result, ratings
from tasks.matches import play_match
from tasks.models import ModelDefinition, definition
from tasks.players import LADDER, NetworkPlayer, Player, RandomPlayer
from tasks.registry import ModelStore, StaleToken, data_dir
from tasks.runs import running

GAMES = 20
#: Generations of one model that take part: the champion, one half way up, and the untrained network.
MOST_PER_MODEL = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """One player of a tournament: ``points`` out of ``games``, and the rating from this tournament alone."""

    player: str
    points: float
    games: int
    elo: float


@dataclass(frozen=True, slots=True)
class Tournament:
    """The latest tournament of a group of models.

    Attributes:
        models: who took part.
        job_id, token: of the job that played it.
        promotions: of these models, up to then.
        standings: best first.
    """

    models: tuple[str, ...]
    job_id: str
    token: int
    promotions: int
    standings: tuple[Standing, ...]


def groups(models: Iterable[ModelDefinition]) -> list[list[str]]:
    """Return the names of the models that can meet: those of one game."""
    found: dict[str, list[str]] = {}
    for model in models:
        found.setdefault(model.game_name, []).append(model.name)
    return list(found.values())


def promotions(models: Iterable[str]) -> int:
    """Return how often these models were promoted."""
    return sum(max(len(ModelStore(name).state().generations) - 1, 0) for name in models)


def _path(models: Sequence[str]) -> Path:
    return data_dir() / "models" / ".tournaments" / f"{'+'.join(sorted(models))}.json"


def read_latest(models: Sequence[str]) -> Tournament | None:
    """Return the latest tournament of exactly these models, if there was one."""
    try:
        known = json.loads(_path(models).read_bytes())
    except FileNotFoundError:
        return None
    standings = tuple(Standing(**item) for item in known.pop("standings"))
    return Tournament(models=tuple(known.pop("models")), standings=standings, **known)


def _save(tournament: Tournament) -> None:
    path = _path(tournament.models)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        latest = read_latest(tournament.models)
        if latest and tournament.token and tournament.token < latest.token:
            raise StaleToken(f"token {tournament.token} is older than {latest.token}")
        replace_file(path, json.dumps(asdict(tournament), indent=1).encode())


def _players(models: Sequence[str]) -> dict[str, Player]:
    found: dict[str, Player] = {}
    for name in models:
        store = ModelStore(name)
        generations = store.ensure().generations
        numbers = sorted({0, len(generations) // 2, len(generations) - 1})[-MOST_PER_MODEL:]
        for number in numbers:
            network = store.champion(generations[number])
            found[f"{name} {number}"] = NetworkPlayer(store.definition.game, network)
    return found


def _needs(models: list[str], *_others: object, **_named: object) -> list[str]:
    """Return the models to lock, from the task's arguments."""
    return models


# Static: as an attribute of the task's class a plain function would become a method of it.
@app.task(name="tasks.tournament.tournament", models=staticmethod(_needs))
def tournament(models: list[str], seed: int | None = None) -> dict[str, Any]:
    """Let generations of several models of one game meet, each with each.

    Args:
        models: their names.
        seed: of all chance; by default made from the job's id.

    Returns:
        The standings, best first.

    Raises:
        NotRetryable: no models, or models of different games.
    """
    with running("tasks.tournament.tournament", models, seed) as run:
        definitions = [definition(name) for name in models]
        if len({one.game_name for one in definitions}) != 1:
            raise NotRetryable(f"{', '.join(models) or 'nobody'}: a tournament is of one game")
        game = definitions[0].game
        players = _players(models)
        pairs = list(combinations(players, 2))
        done, total = 0, len(pairs) * GAMES + len(players) * GAMES
        results = []
        points = dict.fromkeys(players, 0.0)

        def count() -> None:
            nonlocal done
            done += 1
            run.report(done, total, unit="games", leader=max(points, key=points.__getitem__))

        for one, two in pairs:
            chance = zlib.crc32(f"{run.seed} {one} {two}".encode())
            score = play_match(game, players[one], players[two], GAMES, chance, count)
            results.append(Result(one, two, score.points, score.games))
            points[one] += score.points
            points[two] += score.games - score.points
        for name, player in players.items():
            chance = zlib.crc32(f"{run.seed} {name}".encode())
            score = play_match(game, player, RandomPlayer(chance), GAMES, chance, count)
            results.append(Result(name, LADDER[0], score.points, score.games))
        rated = ratings(results, LADDER[0])
        standings = tuple(
            Standing(name, points[name], GAMES * (len(players) - 1), round(rated[name]))
            for name in sorted(players, key=rated.__getitem__, reverse=True)
        )
        _save(Tournament(tuple(models), run.id, run.token or 0, promotions(models), standings))
        return {"models": models, "standings": [asdict(standing) for standing in standings]}

"""The models that are trained, and how."""

from __future__ import annotations

import difflib
import zlib
from dataclasses import dataclass, field

from tasks.games import Game, game


class UnknownModel(LookupError):
    """No model of this name is defined."""


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """One model.

    Attributes:
        name: of the model; the jobs that touch it take a lock of this name.
        game_name: OpenSpiel's name of what it plays.
        hidden: sizes of the network's hidden layers.
        games_per_batch: games of one self-play job.
        batches_per_generation: new batches that lead to a training.
        replay_batches: latest batches a training draws from.
        steps, batch_size, rate: of the training.
        exploration, temperature, decay: of the self-play (see ``experience.play_games``).
        ladder_games: games of a gauntlet against each fixed opponent.
        champion_games: games of a gauntlet against the champion.
        earlier_games: games of a gauntlet against each earlier generation it meets.
    """

    name: str
    game_name: str
    hidden: tuple[int, ...]
    games_per_batch: int
    batches_per_generation: int = 2
    replay_batches: int = 8
    steps: int = 1000
    batch_size: int = 256
    rate: float = 1e-3
    exploration: float = 0.05
    temperature: float = 0.15
    decay: float = 0.8
    ladder_games: dict[str, int] = field(default_factory=dict)
    champion_games: int = 100
    earlier_games: int = 40

    @property
    def game(self) -> Game:
        return game(self.game_name)

    @property
    def first_seed(self) -> int:
        """Seed of the untrained network: fixed, so that every host starts from the same one."""
        return zlib.crc32(self.name.encode())


_CONNECT_FOUR_LADDER = {"random": 60, "mcts5": 80, "mcts25": 100, "mcts100": 60}

MODELS: dict[str, ModelDefinition] = {
    model.name: model
    for model in (
        ModelDefinition(
            "connect-four", "connect_four", (96, 96), 800, ladder_games=_CONNECT_FOUR_LADDER
        ),
        ModelDefinition(
            "connect-four-small", "connect_four", (32,), 800, ladder_games=_CONNECT_FOUR_LADDER
        ),
        ModelDefinition(
            "tic-tac-toe",
            "tic_tac_toe",
            (48, 48),
            4000,
            replay_batches=4,
            ladder_games={"random": 200, "mcts5": 200, "mcts25": 200, "mcts100": 100},
            champion_games=200,
            earlier_games=100,
        ),
    )
}


def definition(name: str) -> ModelDefinition:
    """Return the definition of a model.

    Raises:
        UnknownModel: none of this name; the message names the nearest one.
    """
    try:
        return MODELS[name]
    except KeyError:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(MODELS)}"
        raise UnknownModel(f"no model {name!r} is defined{hint}") from None

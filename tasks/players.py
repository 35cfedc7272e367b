"""Who sits at the board: a network, a tree search or pure chance."""

from __future__ import annotations

from typing import Any, Protocol

from tasks.games import Game, State
from tasks.network import ValueNetwork
from tasks.numeric import np
from tasks.spiel import pyspiel


class Player(Protocol):
    """Chooses moves."""

    def choose(self, state: State) -> int:
        """Return a legal action for the player to move."""


class RandomPlayer:
    """Any legal move: the anchor of the rating scale."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, state: State) -> int:
        legal = state.legal_actions()
        return int(legal[self._rng.integers(len(legal))])


class SearchPlayer:
    """Monte Carlo tree search with random games at its leaves (OpenSpiel's, in C++)."""

    def __init__(self, game: Game, simulations: int, seed: int) -> None:
        """Sit down.

        Args:
            game: what is played.
            simulations: random games for each move; the more, the stronger.
            seed: of all chance.
        """
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        memory_mb = 10
        self._bot: Any = pyspiel.MCTSBot(
            game.spiel, evaluator, 1.4, simulations, memory_mb, True, seed, False
        )

    def choose(self, state: State) -> int:
        return int(self._bot.step(state))


class NetworkPlayer:
    """The move whose position the network likes best; a win at hand is always taken."""

    def __init__(self, game: Game, network: ValueNetwork) -> None:
        self._game, self._network = game, network

    def choose(self, state: State) -> int:
        player = state.current_player()
        legal = state.legal_actions()
        children = [state.child(action) for action in legal]
        for action, child in zip(legal, children, strict=True):
            if child.is_terminal() and child.returns()[player] > 0:
                return int(action)
        values = self._network.value(self._game.encode(children, player))
        return int(legal[int(np.argmax(values))])


#: The fixed opponents of every gauntlet, weakest first: what a rating is measured against.
LADDER = ("random", "mcts5", "mcts25", "mcts100")


def ladder_player(game: Game, name: str, seed: int) -> Player:
    """Return the fixed opponent of this name.

    Raises:
        ValueError: the name is neither ``random`` nor ``mcts`` with a number of simulations.
    """
    if name == "random":
        return RandomPlayer(seed)
    kind, simulations = name[:4], name[4:]
    if kind != "mcts" or not simulations.isdigit() or int(simulations) < 1:
        raise ValueError(f"{name!r} is no fixed opponent: random, or mcts and a number")
    return SearchPlayer(game, int(simulations), seed)

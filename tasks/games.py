"""Board games of OpenSpiel, seen as positions a network can judge."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from tasks.numeric import np, npt
from tasks.spiel import pyspiel

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.int8]

#: OpenSpiel's state of a game under way; the library ships no types.
State = Any

PLANES = 3


class UnsuitableGame(ValueError):
    """The game is not a two-player game observed as own, other and empty fields."""


class Game:
    """One game for two players who place stones in turn.

    A position is encoded as two planes, the stones of the player who looks and those of the other,
    so that one network plays both sides.

    Attributes:
        name: OpenSpiel's name of the game.
        rows, columns: size of the board.
        inputs: length of an encoded position.
    """

    def __init__(self, name: str) -> None:
        """Load a game.

        Raises:
            UnsuitableGame: the game is no board of three kinds of fields.
        """
        self.name = name
        self.spiel: Any = pyspiel.load_game(name)
        shape = tuple(self.spiel.observation_tensor_shape())
        if self.spiel.num_players() != 2 or len(shape) != 3 or shape[0] != PLANES:
            raise UnsuitableGame(
                f"{name}: observed as {shape}, not as {PLANES} planes of one board"
            )
        self.rows, self.columns = int(shape[1]), int(shape[2])
        self.inputs = 2 * self.rows * self.columns
        self._planes = self._find_planes()

    def _find_planes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return, for each player, the observed planes of the own and of the other's stones.

        Games number their planes differently, so they are found by looking at the first move.
        """
        state = self.start()
        state.apply_action(state.legal_actions()[0])
        stones = self._observed([state])[0].sum(axis=1)
        first = int(np.flatnonzero(stones == 1)[0])
        second = int(np.flatnonzero(stones == 0)[0])
        return (first, second), (second, first)

    def _observed(self, states: Iterable[State]) -> FloatArray:
        values: list[float] = []
        for state in states:
            values += state.observation_tensor(0)
        return np.array(values, np.float32).reshape(-1, PLANES, self.rows * self.columns)

    def start(self) -> State:
        """Return the state before the first move."""
        return self.spiel.new_initial_state()

    def encode(self, states: Iterable[State], player: int) -> FloatArray:
        """Return one row of ``inputs`` numbers for each state, as ``player`` (0 or 1) sees it."""
        observed = self._observed(states)
        return observed[:, self._planes[player], :].reshape(len(observed), self.inputs)

    def mirror(self, boards: ByteArray) -> ByteArray:
        """Return encoded positions reflected left to right: as likely, and worth as much."""
        planes = boards.reshape(len(boards), 2, self.rows, self.columns)
        return planes[:, :, :, ::-1].reshape(boards.shape)


@cache
def game(name: str) -> Game:
    """Return the game of this name, loaded once in a process."""
    return Game(name)

"""Self-play: a network plays both sides, and every position learns what came of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from tasks.games import ByteArray, FloatArray, Game, State
from tasks.network import ValueNetwork
from tasks.numeric import np

#: Called with (games done, games in all).
OnGames = Callable[[int, int], None]

#: Games played side by side, so that one call of the network judges the moves of all of them.
SIDE_BY_SIDE = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """The positions of some games and what they were worth.

    Attributes:
        boards: positions after each move, encoded for the player who made it.
        targets: their worth for that player, from -1 to 1.
        games: how many games they come from.
        first_wins, draws: games won by the player who began, and games nobody won.
        generation: of the network that played.
    """

    boards: ByteArray
    targets: FloatArray
    games: int
    first_wins: int
    draws: int
    generation: int

    def to_bytes(self) -> bytes:
        """Return the batch as an ``.npz`` file."""
        file = io.BytesIO()
        counts = np.array([self.games, self.first_wins, self.draws, self.generation])
        np.savez_compressed(file, boards=self.boards, targets=self.targets, counts=counts)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        """Return the batch in an ``.npz`` file.

        Raises:
            ValueError, KeyError, zipfile.BadZipFile: the data is no such file.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            games, first_wins, draws, generation = (int(count) for count in file["counts"])
            return cls(file["boards"], file["targets"], games, first_wins, draws, generation)


@dataclass(slots=True)
class _Table:
    """One game under way: the position after each move and what the network made of it."""

    state: State
    boards: list[FloatArray]
    values: list[float]


def _targets(values: list[float], outcome: float, decay: float) -> FloatArray:
    """Return the worth of each position by TD(lambda), from the end backwards.

    Sutton, "Learning to Predict by the Methods of Temporal Differences" (1988). What is good for
    one player is as bad for the other, so the sign turns with each move.

    Args:
        values: the network's value after each move, for the player who made it.
        outcome: the result for the player who made the last move.
        decay: lambda, from 0 (believe the next value) to 1 (believe the outcome).
    """
    targets = np.empty(len(values), np.float32)
    targets[-1] = outcome
    for move in range(len(values) - 2, -1, -1):
        targets[move] = -(decay * targets[move + 1] + (1 - decay) * values[move + 1])
    return targets


def _move(
    game: Game,
    network: ValueNetwork,
    tables: list[_Table],
    rng: np.random.Generator,
    exploration: float,
    temperature: float,
) -> None:
    """Make one move at every table; all have the same player to move."""
    player = tables[0].state.current_player()
    children = [[t.state.child(a) for a in t.state.legal_actions()] for t in tables]
    flat = [child for family in children for child in family]
    boards = game.encode(flat, player)
    values = network.value(boards)
    # The largest of values with Gumbel noise is a draw from their softmax.
    wanted = values + temperature * rng.gumbel(size=len(flat))
    strays = rng.random(len(tables)) < exploration
    begin = 0
    for table, family, stray in zip(tables, children, strays, strict=True):
        end = begin + len(family)
        if stray:
            chosen = int(rng.integers(begin, end))
        else:
            won = [
                begin + index
                for index, child in enumerate(family)
                if child.is_terminal() and child.returns()[player] > 0
            ]
            chosen = won[0] if won else begin + int(np.argmax(wanted[begin:end]))
        table.state = flat[chosen]
        table.boards.append(boards[chosen])
        table.values.append(float(values[chosen]))
        begin = end


def play_games(
    game: Game,
    network: ValueNetwork,
    games: int,
    seed: int,
    *,
    generation: int = 0,
    exploration: float = 0.05,
    temperature: float = 0.15,
    decay: float = 0.8,
    on_games: OnGames | None = None,
) -> Batch:
    """Let a network play against itself.

    Args:
        game: what is played.
        network: who plays.
        games: how many.
        seed: of all chance; the same seed and network give the same games.
        generation: of the network, noted in the batch.
        exploration: share of moves made at random, 0 to 1.
        temperature: how freely moves other than the best are tried; 0 never.
        decay: lambda of TD(lambda), 0 to 1.
        on_games: told of the progress from time to time.
    """
    rng = np.random.default_rng(seed)
    boards: list[FloatArray] = []
    targets: list[FloatArray] = []
    first_wins = draws = done = 0
    while done < games:
        tables = [_Table(game.start(), [], []) for _ in range(min(SIDE_BY_SIDE, games - done))]
        playing = tables
        while playing:
            _move(game, network, playing, rng, exploration, temperature)
            playing = [table for table in playing if not table.state.is_terminal()]
        for table in tables:
            result = table.state.returns()[0]
            first_wins += result > 0
            draws += result == 0
            mover = (len(table.boards) - 1) % 2
            targets.append(_targets(table.values, -result if mover else result, decay))
            boards += table.boards
        done += len(tables)
        if on_games:
            on_games(done, games)
    return Batch(
        np.stack(boards).astype(np.int8),
        np.concatenate(targets),
        games,
        first_wins,
        draws,
        generation,
    )

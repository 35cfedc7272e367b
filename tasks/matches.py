"""A match: two players, many games, both sides of each opening."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.games import Game, State
from tasks.numeric import np
from tasks.players import Player

#: Called after each game.
OnGame = Callable[[], None]

OPENING_MOVES = 2


@dataclass(frozen=True, slots=True)
class Score:
    """How a match ended, seen by the first player named."""

    wins: int
    draws: int
    losses: int

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses

    @property
    def points(self) -> float:
        """A win is one point, a draw half of one."""
        return self.wins + self.draws / 2

    @property
    def rate(self) -> float:
        """Share of the points, 0 to 1; 0.5 of no games."""
        return self.points / self.games if self.games else 0.5


def _opening(game: Game, rng: np.random.Generator) -> State:
    state = game.start()
    for _ in range(OPENING_MOVES):
        legal = state.legal_actions()
        state.apply_action(int(legal[rng.integers(len(legal))]))
    return state


def play_match(
    game: Game,
    player: Player,
    opponent: Player,
    games: int,
    seed: int,
    on_game: OnGame | None = None,
) -> Score:
    """Let two players meet.

    Each game opens with random moves, else two networks would play the same game again and again;
    each opening is played twice with the sides changed, so that a lucky one favours nobody.

    Args:
        game: what is played.
        player, opponent: who plays; they keep their own chance.
        games: how many; an odd number leaves one opening played from one side only.
        seed: of the openings.
        on_game: called after each game.

    Returns:
        The score as ``player`` sees it.
    """
    rng = np.random.default_rng(seed)
    wins = draws = losses = 0
    opening = game.start()
    for number in range(games):
        side = number % 2
        if side == 0:
            opening = _opening(game, rng)
        state = opening.clone()
        seats = (player, opponent) if side == 0 else (opponent, player)
        while not state.is_terminal():
            state.apply_action(seats[state.current_player()].choose(state))
        result = state.returns()[side]
        wins += result > 0
        draws += result == 0
        losses += result < 0
        if on_game:
            on_game()
    return Score(wins, draws, losses)

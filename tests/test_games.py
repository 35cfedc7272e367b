"""Games, players, matches and ratings: exact where chance is seeded, checked by hand where it is maths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.elo import NotConnected, Result, expected, ratings
from tasks.experience import Batch, _targets, play_games
from tasks.games import Game, UnsuitableGame, game
from tasks.matches import Score, play_match
from tasks.network import ValueNetwork
from tasks.players import NetworkPlayer, RandomPlayer, SearchPlayer, ladder_player

GAMES = ("tic_tac_toe", "connect_four")


def network_for(played: Game, seed: int = 1) -> ValueNetwork:
    return ValueNetwork.random(played.inputs, (16,), seed)


@pytest.mark.parametrize("name", GAMES)
def test_each_player_sees_the_own_stones_first(name: str) -> None:
    played = game(name)
    state = played.start()
    state.apply_action(state.legal_actions()[0])
    first, second = played.encode([state], 0)[0], played.encode([state], 1)[0]
    half = played.inputs // 2
    assert first[:half].sum() == 1
    assert first[half:].sum() == 0
    assert np.array_equal(second[:half], first[half:])
    assert np.array_equal(second[half:], first[:half])


def test_a_mirrored_board_is_the_game_with_mirrored_moves() -> None:
    played = game("connect_four")
    left, right = played.start(), played.start()
    for column in (0, 3, 1, 5):
        left.apply_action(column)
        right.apply_action(6 - column)
    mirrored = played.mirror(played.encode([left], 0).astype(np.int8))
    assert np.array_equal(mirrored, played.encode([right], 0).astype(np.int8))


def test_a_game_that_is_no_board_of_stones_is_refused() -> None:
    with pytest.raises(UnsuitableGame, match="kuhn_poker"):
        Game("kuhn_poker")


@pytest.mark.parametrize("name", GAMES)
def test_the_same_seed_plays_the_same_games_and_another_one_others(name: str) -> None:
    played = game(name)
    network = network_for(played)
    one, two, other = (play_games(played, network, 60, seed) for seed in (5, 5, 6))
    assert np.array_equal(one.boards, two.boards)
    assert np.array_equal(one.targets, two.targets)
    assert (one.first_wins, one.draws) == (two.first_wins, two.draws)
    assert one.boards.shape != other.boards.shape or not np.array_equal(one.boards, other.boards)


def test_a_batch_survives_its_file() -> None:
    played = game("tic_tac_toe")
    batch = play_games(played, network_for(played), 10, 3, generation=7)
    read = Batch.from_bytes(batch.to_bytes())
    assert np.array_equal(read.boards, batch.boards)
    assert np.array_equal(read.targets, batch.targets)
    assert (read.games, read.first_wins, read.draws) == (10, batch.first_wins, batch.draws)
    assert read.generation == 7


def test_every_position_of_every_game_is_kept_and_progress_told() -> None:
    played = game("tic_tac_toe")
    told: list[tuple[int, int]] = []
    batch = play_games(
        played, network_for(played), 120, 3, on_games=lambda *done: told.append(done)
    )
    assert told == [(50, 120), (100, 120), (120, 120)]
    # The last position of a game is the one whose target is the result itself.
    assert len(batch.boards) == len(batch.targets)
    assert 120 * 5 <= len(batch.targets) <= 120 * 9


def test_targets_run_back_from_the_result_and_turn_with_the_player() -> None:
    assert _targets([0.5, 0.5, 0.5], 1.0, 1.0).tolist() == [1.0, -1.0, 1.0]
    assert _targets([0.5, 0.2, 0.4], 1.0, 0.0).tolist() == pytest.approx([-0.2, -0.4, 1.0])


@pytest.mark.parametrize("name", GAMES)
def test_a_network_takes_a_win_at_hand(name: str) -> None:
    played = game(name)
    state = played.start()
    # Tic-tac-toe fields and connect-four columns: three or four in a row come first for the beginner.
    moves = (0, 3, 1, 4) if name == "tic_tac_toe" else (0, 1, 0, 1, 0, 1)
    for move in moves:
        state.apply_action(move)
    for seed in range(5):
        player = NetworkPlayer(played, network_for(played, seed))
        assert player.choose(state) == (2 if name == "tic_tac_toe" else 0)


def test_a_match_is_repeatable_and_counts_every_game() -> None:
    played = game("tic_tac_toe")

    def once() -> Score:
        strong = SearchPlayer(played, 50, 1)
        return play_match(played, strong, RandomPlayer(2), 41, 3)

    score = once()
    assert score == once()
    assert score.games == 41
    assert score.rate > 0.75


def test_equal_players_share_the_points_since_each_opening_is_played_from_both_sides() -> None:
    played = game("connect_four")
    player = NetworkPlayer(played, network_for(played))
    assert play_match(played, player, player, 20, 4).rate == 0.5


def test_fixed_opponents_have_names() -> None:
    assert isinstance(ladder_player(game("tic_tac_toe"), "mcts5", 0), SearchPlayer)
    for name in ("mcts", "mcts0", "mctsx", "nobody"):
        with pytest.raises(ValueError, match="no fixed opponent"):
            ladder_player(game("tic_tac_toe"), name, 0)


def test_three_of_four_points_are_odds_of_three_to_one() -> None:
    rated = ratings([Result("one", "random", 75, 100)], "random", prior_games=0)
    assert rated["random"] == 0
    assert rated["one"] == pytest.approx(400 * math.log10(3), abs=1e-6)  # 190.85
    assert expected(rated["one"], 0) == pytest.approx(0.75)


def test_ratings_add_up_along_a_chain() -> None:
    played = [Result("one", "random", 10, 11), Result("two", "one", 10, 11)]
    rated = ratings(played, "random", prior_games=0)
    assert rated["one"] == pytest.approx(400)
    assert rated["two"] == pytest.approx(800)


def test_a_circle_of_equal_wins_rates_all_alike() -> None:
    played = [Result("a", "b", 7, 10), Result("b", "c", 7, 10), Result("c", "a", 7, 10)]
    assert ratings(played, "a", prior_games=0) == pytest.approx({"a": 0, "b": 0, "c": 0})


def test_the_order_of_results_and_how_they_are_split_do_not_matter() -> None:
    whole = [Result("a", "r", 8, 10), Result("b", "a", 6, 10), Result("b", "r", 9, 10)]
    parts = [
        Result("r", "b", 1, 10),
        Result("b", "a", 2, 5),
        Result("a", "r", 8, 10),
        Result("b", "a", 4, 5),
    ]
    assert ratings(whole, "r") == pytest.approx(ratings(parts, "r"))


def test_the_imagined_draw_keeps_a_clean_sheet_finite() -> None:
    # 20 of 20 and one drawn game: 20.5 to 0.5.
    rated = ratings([Result("one", "random", 20, 20)], "random", prior_games=1)
    assert rated["one"] == pytest.approx(400 * math.log10(41))


def test_strong_players_far_apart_are_rated_too() -> None:
    played = [Result(str(i + 1), str(i), 999, 1000) for i in range(8)]
    rated = ratings(played, "0", prior_games=0)
    assert rated["8"] == pytest.approx(8 * 400 * math.log10(999))


def test_a_player_without_a_chain_to_the_anchor_is_named() -> None:
    with pytest.raises(NotConnected, match="a, b with random"):
        ratings([Result("a", "b", 1, 2), Result("c", "random", 1, 2)], "random")

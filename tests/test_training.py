"""The network learns what it is shown, the same way each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.games import FloatArray, game
from tasks.network import ValueNetwork, fit


def data(rows: int = 400) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    boards = rng.integers(0, 2, (rows, 18)).astype(np.float32)
    targets = np.tanh(boards[:, 0] - boards[:, 1] * boards[:, 2]).astype(np.float32)
    return boards, targets


def test_gradients_are_the_slopes_of_the_loss() -> None:
    boards, targets = data(50)
    network = ValueNetwork.random(18, (5, 4), 3)
    # Biases of exactly 0 would put some units on the bend of the rectifier, where there is no slope.
    rng = np.random.default_rng(1)
    doubles: list[Any] = [array + rng.normal(0, 0.1, array.shape) for array in network.weights]
    network.weights = doubles
    _, gradients = network.gradients(boards, targets)
    step = 1e-5
    for array, slope in zip(network.weights, gradients, strict=True):
        assert slope.shape == array.shape
        place = tuple(size // 2 for size in array.shape)
        before = array[place]
        array[place] = before + step
        above, _ = network.gradients(boards, targets)
        array[place] = before - step
        below, _ = network.gradients(boards, targets)
        array[place] = before
        assert np.isclose(slope[place], (above - below) / (2 * step), rtol=1e-3, atol=1e-6)


def test_training_brings_the_loss_down_and_repeats_exactly() -> None:
    boards, targets = data()
    trained = []
    for _ in range(2):
        network = ValueNetwork.random(18, (16,), 1)
        before, _ = network.gradients(boards, targets)
        told: list[tuple[int, int, float]] = []
        loss = fit(
            network,
            boards,
            targets,
            steps=300,
            batch_size=64,
            rate=1e-2,
            seed=4,
            on_steps=lambda *progress, told=told: told.append(progress),
        )
        assert loss < before / 20
        assert [done for done, _, _ in told] == [50, 100, 150, 200, 250, 300]
        assert told[-1] == (300, 300, loss)
        trained.append(network)
    for one, two in zip(trained[0].weights, trained[1].weights, strict=True):
        assert np.array_equal(one, two)


def test_a_network_survives_its_file() -> None:
    network = ValueNetwork.random(game("tic_tac_toe").inputs, (8, 4), 2)
    read, about = ValueNetwork.from_bytes(network.to_bytes({"generation": 3}))
    assert about == {"generation": 3}
    boards = np.eye(18, dtype=np.float32)
    assert np.array_equal(read.value(boards), network.value(boards))


def test_an_untrained_network_has_hardly_an_opinion() -> None:
    values = ValueNetwork.random(18, (16,), 2).value(np.eye(18, dtype=np.float32))
    assert float(np.abs(values).max()) < 0.3

"""A small value network in plain numpy: how good is a position for the player who has just moved?"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from tasks.games import FloatArray
from tasks.numeric import np

#: Called with (steps done, steps in all, mean loss of the latest steps).
OnSteps = Callable[[int, int, float], None]

REPORT_EVERY = 50


class ValueNetwork:
    """Fully connected layers with rectifiers and a hyperbolic tangent at the end.

    Attributes:
        weights: a matrix and a bias for each layer, in turn.
    """

    def __init__(self, weights: Sequence[FloatArray]) -> None:
        self.weights = [np.asarray(array, np.float32) for array in weights]

    @classmethod
    def random(cls, inputs: int, hidden: Sequence[int], seed: int) -> ValueNetwork:
        """Return an untrained network; the same seed gives the same one.

        Its weights follow He et al., "Delving Deep into Rectifiers" (2015); the last layer is small,
        so that it starts without an opinion.
        """
        rng = np.random.default_rng(seed)
        sizes = (inputs, *hidden, 1)
        weights: list[FloatArray] = []
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            last = layer == len(hidden)
            scale = 0.05 if last else float(np.sqrt(2 / fan_in))
            weights.append((rng.standard_normal((fan_in, fan_out)) * scale).astype(np.float32))
            weights.append(np.zeros(fan_out, np.float32))
        return cls(weights)

    def _activations(self, boards: FloatArray) -> list[FloatArray]:
        """Return the input and the output of each layer."""
        found = [boards]
        last = len(self.weights) // 2 - 1
        for layer in range(last + 1):
            total = found[-1] @ self.weights[2 * layer] + self.weights[2 * layer + 1]
            found.append(np.tanh(total) if layer == last else np.maximum(total, 0))
        return found

    def value(self, boards: FloatArray) -> FloatArray:
        """Return a value from -1 (lost) to 1 (won) for each encoded position."""
        return self._activations(boards)[-1][:, 0]

    def gradients(self, boards: FloatArray, targets: FloatArray) -> tuple[float, list[FloatArray]]:
        """Return the mean squared error against ``targets`` and its slope in each weight."""
        found = self._activations(boards)
        output = found[-1]
        error = output - targets[:, None]
        slope = (error * (1 - output * output) * (2 / len(boards))).astype(np.float32)
        gradients: list[FloatArray] = []
        for layer in reversed(range(len(self.weights) // 2)):
            gradients += [slope.sum(axis=0), found[layer].T @ slope]
            slope = (slope @ self.weights[2 * layer].T) * (found[layer] > 0)
        return float((error**2).mean()), gradients[::-1]

    def to_bytes(self, about: dict[str, Any] | None = None) -> bytes:
        """Return the network as an ``.npz`` file, with what is to be known about it."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            f"layer{index}": array for index, array in enumerate(self.weights)
        }
        np.savez(file, about=np.array(json.dumps(about or {})), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[ValueNetwork, dict[str, Any]]:
        """Return the network in an ``.npz`` file and what was noted about it.

        Raises:
            ValueError, KeyError, zipfile.BadZipFile: the data is no such file.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            count = sum(name.startswith("layer") for name in file.files)
            weights = [file[f"layer{index}"] for index in range(count)]
            about: dict[str, Any] = json.loads(str(file["about"]))
        return cls(weights), about


class Adam:
    """The optimizer of Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015)."""

    def __init__(self, weights: Sequence[FloatArray], rate: float) -> None:
        self.rate, self.steps = rate, 0
        self._mean = [np.zeros_like(array) for array in weights]
        self._square = [np.zeros_like(array) for array in weights]

    def step(self, weights: Sequence[FloatArray], gradients: Sequence[FloatArray]) -> None:
        """Move ``weights``, in place, one step down the slope."""
        self.steps += 1
        rate = self.rate * float(np.sqrt(1 - 0.999**self.steps)) / (1 - 0.9**self.steps)
        for index, slope in enumerate(gradients):
            mean, square = self._mean[index], self._square[index]
            np.add(mean, 0.1 * (slope - mean), out=mean)
            np.add(square, 0.001 * (slope * slope - square), out=square)
            np.subtract(weights[index], rate * mean / (np.sqrt(square) + 1e-8), out=weights[index])


def fit(
    network: ValueNetwork,
    boards: FloatArray,
    targets: FloatArray,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
    on_steps: OnSteps | None = None,
) -> float:
    """Train ``network``, in place, on positions drawn at random.

    Args:
        network: what is trained.
        boards: encoded positions, one row each.
        targets: what each is worth, from -1 to 1.
        steps: optimizer steps.
        batch_size: positions in one step.
        rate: the optimizer's step size at the start; it falls to a tenth of that.
        seed: of the draw; the same seed and data give the same network.
        on_steps: told of the progress from time to time.

    Returns:
        The mean loss of the last steps.
    """
    rng = np.random.default_rng(seed)
    optimizer = Adam(network.weights, rate)
    losses: list[float] = []
    for step in range(steps):
        optimizer.rate = rate * (1 - 0.9 * step / steps)
        drawn = rng.integers(len(boards), size=batch_size)
        loss, gradients = network.gradients(boards[drawn], targets[drawn])
        optimizer.step(network.weights, gradients)
        losses.append(loss)
        if on_steps and (step + 1) % REPORT_EVERY == 0:
            on_steps(step + 1, steps, float(np.mean(losses[-REPORT_EVERY:])))
    return float(np.mean(losses[-REPORT_EVERY:]))

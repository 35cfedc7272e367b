"""A picture of playing strength: Elo per generation of every model.

Needs matplotlib, which is in the optional extra ``games``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.atomic import replace_file
from tasks.elo import ratings
from tasks.pipeline import ModelSummary, summary
from tasks.players import LADDER
from tasks.registry import ModelStore, data_dir


def _ladder(models: Sequence[str]) -> dict[str, float]:
    """Return the mean rating of each fixed opponent on the scales of these models."""
    found: dict[str, list[float]] = {}
    for model in models:
        if results := ModelStore(model).state().results:
            for name, elo in ratings(results, LADDER[0]).items():
                if name in LADDER:
                    found.setdefault(name, []).append(elo)
    return {name: sum(elo_history) / len(elo_history) for name, elo_history in found.items()}


def draw(path: Path | None = None, summaries: Sequence[ModelSummary] | None = None) -> Path:
    """Draw Elo per generation, one panel for each game.

    Args:
        path: where the PNG goes; by default ``elo.png`` in the data folder.
        summaries: what is drawn; by default all models as they are now.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
    """
    # Here and not above: workers that never draw need not have it, nor wait a second for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = list(summary() if summaries is None else summaries)
    path = path or data_dir() / "elo.png"
    games = sorted({one.game for one in shown})
    figure = Figure(figsize=(5.5 * max(len(games), 1), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Playing strength by generation (random play is 0)", fontsize=11)
    for place, game in enumerate(games):
        axes = figure.add_subplot(1, len(games), place + 1)
        models = [one for one in shown if one.game == game]
        for one in models:
            axes.plot(
                range(len(one.elo_history)),
                one.elo_history,
                marker="o",
                markersize=3.5,
                label=one.model,
            )
        for name, elo in _ladder([one.model for one in models]).items():
            axes.axhline(elo, color="0.75", linewidth=0.8, linestyle="--", zorder=0)
            axes.annotate(
                name,
                (1, elo),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="0.45",
            )
        axes.set_title(game.replace("_", " "), fontsize=10)
        axes.set_xlabel("generation")
        axes.set_ylabel("Elo")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8, loc="upper left", edgecolor="none", framealpha=1)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())
    return path


if __name__ == "__main__":
    sys.stdout.write(f"{draw()}\n")

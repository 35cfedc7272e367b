"""Self-play: the champion plays against itself, so that the next one can learn from it."""

from __future__ import annotations

from typing import Any

from tasks import app
from tasks.experience import play_games
from tasks.registry import ModelStore
from tasks.runs import running


@app.task(name="tasks.selfplay.play", models="{model}")
def play(model: str, seed: int | None = None) -> dict[str, Any]:
    """Play one batch of games of a model with itself.

    Args:
        model: its name.
        seed: of all chance; by default made from the job's id.

    Returns:
        What was played; ``games`` is 0 if an earlier run of the same job had already brought them.
    """
    with running("tasks.selfplay.play", [model], seed) as run:
        store = ModelStore(model, run.token)
        champion = store.ensure().champion
        if store.has_batch(run.id):
            return {"model": model, "generation": champion.number, "games": 0}
        definition = store.definition
        batch = play_games(
            definition.game,
            store.champion(champion),
            definition.games_per_batch,
            run.seed,
            generation=champion.number,
            exploration=definition.exploration,
            temperature=definition.temperature,
            decay=definition.decay,
            on_games=lambda done, total: run.report(
                done, total, unit="games", generation=champion.number
            ),
        )
        store.batches.save(run.id, batch)
        return {
            "model": model,
            "generation": champion.number,
            "games": batch.games,
            "first_player_wins": batch.first_wins,
            "draws": batch.draws,
            "positions": len(batch.targets),
        }

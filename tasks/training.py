"""Training: the latest network learns from the latest games and becomes the candidate."""

from __future__ import annotations

from typing import Any

from tasks import app
from tasks.network import fit
from tasks.numeric import np
from tasks.registry import ModelStore
from tasks.runs import running


@app.task(name="tasks.training.train", models="{model}")
def train(model: str, seed: int | None = None) -> dict[str, Any]:
    """Train a model on its latest self-play games.

    Training goes on from the latest candidate even if that was rejected: what it learned is not lost,
    and it need only become better than the champion in the end.

    Args:
        model: its name.
        seed: of all chance; by default made from the job's id.

    Returns:
        The candidate; or ``skipped`` with the reason, when a candidate still waits for its gauntlet (an
        earlier run of the job may have made it) or no new games were played.
    """
    with running("tasks.training.train", [model], seed) as run:
        store = ModelStore(model, run.token)
        definition = store.definition
        state = store.enter()
        if waiting := state.waiting_candidate:
            return {
                "model": model,
                "skipped": f"candidate {waiting.number} waits for its gauntlet",
            }
        if not store.new_batches(state):
            return {"model": model, "skipped": "no new games"}
        files = store.batches.files()[-definition.replay_batches :]
        batches = [file.read() for file in files]
        boards = np.concatenate([batch.boards for batch in batches])
        targets = np.concatenate([batch.targets for batch in batches])
        network = store.learner(state)
        loss = fit(
            network,
            np.concatenate([boards, definition.game.mirror(boards)]).astype(np.float32),
            np.concatenate([targets, targets]),
            steps=definition.steps,
            batch_size=definition.batch_size,
            rate=definition.rate,
            seed=run.seed,
            on_steps=lambda done, total, loss: run.report(
                done, total, unit="steps", loss=round(loss, 4)
            ),
        )
        state = store.save_candidate(network, files, loss)
        return {
            "model": model,
            "candidate": state.trainings,
            "games": state.games_used,
            "positions": len(targets),
            "loss": round(loss, 4),
        }

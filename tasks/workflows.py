"""Workflows of the models: what one would do by hand, one step after the other, with nobody in between."""

from __future__ import annotations

from coordinator import Step, Workflow, register_workflow
from tasks import app

_MODEL = {"model": "{model}"}

register_workflow(
    app,
    Workflow(
        "improve",
        steps=(
            Step("selfplay", "tasks.selfplay.play", models="{model}", kwargs=_MODEL),
            Step("training", "tasks.training.train", models="{model}", kwargs=_MODEL),
            Step("evaluation", "tasks.evaluation.gauntlet", models="{model}", kwargs=_MODEL),
        ),
        required=("model",),
        description="one round of a model: games with itself, a training, a gauntlet",
    ),
)

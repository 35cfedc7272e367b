"""What is to be done next: games lead to training, training to a gauntlet, a gauntlet to new games."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator import Wish
from tasks.models import MODELS, ModelDefinition
from tasks.registry import ModelStore
from tasks.tournament import groups, promotions, read_latest

#: Self-play jobs of one model kept in sight, so that the next starts when one ends.
MAX_DEPTH = 2
#: Promotions in a group of models that make its next tournament due.
PROMOTIONS_PER_TOURNAMENT = 6
#: A due tournament needs all its models at once; for so many seconds after the latest promotion
#: no new games are asked for, so that they become free. A tournament that cannot run stops nothing longer.
TOURNAMENT_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """How a model is doing.

    Attributes:
        model, game: their names.
        generation: of the champion.
        games: self-play games so far.
        win_rate: of the champion against random play, 0 to 1; None until measured.
        elo: of the champion, random play being 0; None until measured.
        elo_history: rating of each generation measured, oldest first.
        trainings, rejected: candidates trained, and those that were not better.
        activity: what happens next.
    """

    model: str
    game: str
    generation: int
    games: int
    win_rate: float | None
    elo: float | None
    elo_history: tuple[float, ...]
    trainings: int
    rejected: int
    activity: str


def _wish(store: ModelStore) -> Wish:
    """Return what a model needs next."""
    model, state = store.definition, store.state()
    kwargs = {"model": model.name}
    if candidate := state.waiting_candidate:
        reason = f"candidate {candidate.number} waits for its gauntlet"
        return Wish("evaluation", model.name, "tasks.evaluation.gauntlet", kwargs, 1, reason)
    new = len(store.new_batches(state))
    wanted = model.batches_per_generation
    if new >= wanted:
        reason = f"{new} new batches of games, {wanted} lead to a training"
        parts = "training", model.name, "tasks.training.train", kwargs, 1, reason
        return Wish(*parts, feeds="evaluation")
    generation = state.champion.number if state.generations else 0
    reason = f"generation {generation} has played {new} of {wanted} batches of games"
    depth = min(wanted - new, MAX_DEPTH)
    parts = "selfplay", model.name, "tasks.selfplay.play", kwargs, depth, reason
    return Wish(*parts, feeds="training")


def _tournament(members: list[str], wishes: dict[str, Wish]) -> Wish | None:
    """Return the tournament that is due among these models, if any.

    None is due before a training or gauntlet under way, which the next generation comes from, is through.
    """
    if any(wishes[name].queue != "selfplay" for name in members):
        return None
    played = read_latest(members)
    before = played.promotions if played else 0
    since = promotions(members) - before
    if since < PROMOTIONS_PER_TOURNAMENT:
        return None
    reason = f"{since} promotions since the last tournament"
    kwargs = {"models": members}
    return Wish("evaluation", members[0], "tasks.tournament.tournament", kwargs, 1, reason)


def _patient(members: Iterable[str], now: float) -> bool:
    latest = max(ModelStore(name).state().champion.at for name in members)
    return now - latest < TOURNAMENT_PATIENCE


def plan(models: Iterable[ModelDefinition] | None = None) -> list[Wish]:
    """Return what should be waiting or running now.

    Seeds are left to the jobs, which make them from their ids: two jobs of one wish play different games, and
    a retried job plays the same ones again.

    Args:
        models: those to plan for; by default all.
    """
    chosen = list(MODELS.values() if models is None else models)
    wishes = {model.name: _wish(ModelStore(model)) for model in chosen}
    found: list[Wish] = []
    for members in groups(chosen):
        if tournament := _tournament(members, wishes):
            found.append(tournament)
            if _patient(members, time.time()):
                for name in members:
                    del wishes[name]
    return found + list(wishes.values())


def summary(models: Iterable[ModelDefinition] | None = None) -> list[ModelSummary]:
    """Return how each model is doing, from its files alone.

    Args:
        models: those to tell of; by default all.
    """
    found = []
    for model in MODELS.values() if models is None else models:
        store = ModelStore(model)
        state = store.state()
        champion = state.champion if state.generations else None
        fresh = sum(batch.games for batch in store.new_batches(state))
        wish = _wish(store)
        found.append(
            ModelSummary(
                model=model.name,
                game=model.game_name,
                generation=champion.number if champion else 0,
                games=state.games_used + fresh,
                win_rate=champion.win_rate if champion else None,
                elo=champion.elo if champion else None,
                elo_history=tuple(one.elo for one in state.generations if one.elo is not None),
                trainings=state.trainings,
                rejected=state.rejected,
                activity=f"{wish.queue}: {wish.reason}",
            )
        )
    return found

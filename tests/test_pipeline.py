"""The pipeline feeds itself, and models get stronger: real games at small size, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import NotRetryable, Wish
from tasks import app, pipeline
from tasks.evaluation import gauntlet
from tasks.models import MODELS, ModelDefinition
from tasks.network import ValueNetwork
from tasks.pipeline import plan, summary
from tasks.plot import draw
from tasks.registry import ModelStore
from tasks.selfplay import play
from tasks.tournament import read_latest, tournament
from tasks.training import train

SMALL = ModelDefinition(
    "small",
    "tic_tac_toe",
    (24,),
    games_per_batch=200,
    steps=300,
    batch_size=64,
    rate=3e-3,
    ladder_games={"random": 60, "mcts5": 60, "mcts25": 40, "mcts100": 20},
    champion_games=60,
    earlier_games=20,
)
TWIN = replace(SMALL, name="twin", hidden=(12,))


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COORDINATOR_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(MODELS, SMALL.name, SMALL)
    monkeypatch.setitem(MODELS, TWIN.name, TWIN)
    app.loader.import_default_modules()


def work(models: list[ModelDefinition], rounds: int, first_seed: int = 0) -> list[str]:
    """Do what ``plan`` asks for, one job for each wish and round; return the names of the tasks."""
    done = []
    for number in range(rounds):
        for place, wish in enumerate(plan(models)):
            app.tasks[wish.task](**wish.kwargs, seed=first_seed + 10 * number + place)
            done.append(wish.task.rsplit(".", 1)[1])
    return done


def only_wish(model: ModelDefinition) -> Wish:
    (wish,) = plan([model])
    return wish


def test_games_lead_to_training_training_to_a_gauntlet_and_that_to_new_games() -> None:
    wish = only_wish(SMALL)
    assert wish == Wish(
        queue="selfplay",
        model="small",
        task="tasks.selfplay.play",
        kwargs={"model": "small"},
        depth=2,
        reason="generation 0 has played 0 of 2 batches of games",
        feeds="training",
    )
    play(model="small", seed=1)
    assert only_wish(SMALL).depth == 1
    play(model="small", seed=1)
    assert only_wish(SMALL).depth == 1, "the same job a second time brings nothing"
    play(model="small", seed=2)
    wish = only_wish(SMALL)
    assert (wish.queue, wish.task) == ("training", "tasks.training.train")
    assert train(model="small", seed=3)["candidate"] == 1
    wish = only_wish(SMALL)
    assert (wish.queue, wish.task) == ("evaluation", "tasks.evaluation.gauntlet")
    assert gauntlet(model="small", seed=4)["promoted"]
    assert only_wish(SMALL).reason == "generation 1 has played 0 of 2 batches of games"


def test_elo_rises_over_generations_and_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for attempt in ("one", "two"):
        monkeypatch.setenv("COORDINATOR_DATA_DIR", str(tmp_path / attempt))
        assert "tournament" not in work([SMALL], 24)
        (seen,) = summary([SMALL])
        found.append(seen)
    assert found[0].elo_history == found[1].elo_history
    seen = found[0]
    assert seen.generation >= 3
    assert len(seen.elo_history) == seen.generation + 1
    assert seen.elo == seen.elo_history[-1]
    assert seen.elo_history[-1] > seen.elo_history[0] + 150
    assert seen.win_rate is not None
    assert seen.win_rate > 0.75
    assert seen.trainings == seen.generation + seen.rejected == 6
    assert seen.games == 12 * 200


def test_a_worse_candidate_is_rejected_and_training_goes_on_from_it() -> None:
    work([SMALL], 4)
    store = ModelStore("small")
    assert store.state().champion.number == 1
    before = store.state()
    state = store.save_candidate(ValueNetwork.random(18, (24,), 99), [], 0.9)
    answer = gauntlet(model="small", seed=5)
    assert not answer["promoted"]
    assert answer["elo"] <= answer["champion_elo"]
    after = store.state()
    assert after.champion.number == 1
    assert after.champion.sha256 == before.champion.sha256
    assert after.rejected == 1
    assert after.waiting_candidate is None
    assert not any(result.player == "candidate" for result in after.results)
    assert only_wish(SMALL).queue == "selfplay"
    learner = store.learner(after)
    assert state.candidate is not None
    assert learner.weights[0].tobytes() == store.candidate(state.candidate).weights[0].tobytes()


def test_jobs_that_run_again_find_nothing_to_do() -> None:
    assert train(model="small", seed=1)["skipped"] == "no new games"
    assert gauntlet(model="small", seed=1)["skipped"] == "no candidate"
    assert play(model="small", seed=1)["games"] == 200
    assert play(model="small", seed=1)["games"] == 0
    play(model="small", seed=2)
    train(model="small", seed=3)
    assert train(model="small", seed=3)["skipped"] == "candidate 1 waits for its gauntlet"
    gauntlet(model="small", seed=4)
    assert gauntlet(model="small", seed=4)["skipped"] == "no candidate"
    assert len(ModelStore("small").state().generations) == 2


def test_enough_promotions_lead_to_a_tournament_of_all_models_of_a_game(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "PROMOTIONS_PER_TOURNAMENT", 2)
    work([SMALL, TWIN], 4)
    (wish,) = plan([SMALL, TWIN])
    assert (wish.queue, wish.task) == ("evaluation", "tasks.tournament.tournament")
    assert wish.kwargs == {"models": ["small", "twin"]}
    assert wish.reason == "2 promotions since the last tournament"
    monkeypatch.setattr(pipeline, "TOURNAMENT_PATIENCE", 0.0)
    assert [one.queue for one in plan([SMALL, TWIN])] == ["evaluation", "selfplay", "selfplay"]
    standings = tournament(models=["small", "twin"], seed=1)["standings"]
    players = {standing["player"] for standing in standings}
    assert players == {"small 0", "small 1", "twin 0", "twin 1"}
    assert sum(standing["points"] for standing in standings) == 6 * 20
    assert standings[0]["player"] in {"small 1", "twin 1"}
    assert tournament(models=["small", "twin"], seed=1)["standings"] == standings
    latest = read_latest(["twin", "small"])
    assert latest is not None
    assert latest.promotions == 2
    assert [one.queue for one in plan([SMALL, TWIN])] == ["selfplay", "selfplay"]


def test_a_tournament_is_of_one_game() -> None:
    with pytest.raises(NotRetryable, match="of one game"):
        tournament(models=["small", "connect-four"], seed=1)
    with pytest.raises(NotRetryable, match="nobody"):
        tournament(models=[], seed=1)


def test_a_model_that_does_not_exist_is_not_tried_again() -> None:
    for task in (play, train, gauntlet):
        with pytest.raises(NotRetryable, match="did you mean 'small'"):
            task(model="smal", seed=1)


def test_all_models_are_planned_for_and_several_can_be_at_work_at_once() -> None:
    wishes = plan([MODELS[name] for name in ("connect-four", "connect-four-small", "tic-tac-toe")])
    assert [(wish.queue, wish.model) for wish in wishes] == [
        ("selfplay", "connect-four"),
        ("selfplay", "connect-four-small"),
        ("selfplay", "tic-tac-toe"),
    ]


def test_the_tasks_lock_their_models() -> None:
    assert (play.models, train.models, gauntlet.models) == ("{model}",) * 3
    assert tournament.models(["a", "b"], seed=1) == ["a", "b"]
    assert tournament.models(models=["a", "b"]) == ["a", "b"]


def test_tasks_go_to_their_queues() -> None:
    queues = {
        "tasks.selfplay.play": "selfplay",
        "tasks.training.train": "training",
        "tasks.evaluation.gauntlet": "evaluation",
        "tasks.tournament.tournament": "evaluation",
        "coordinator.reap": "maintenance",
        "tasks.shell.run": "selfplay",
    }
    for name, queue in queues.items():
        assert app.amqp.router.route({}, name)["queue"].name == queue
    assert set(app.amqp.queues) == {"selfplay", "training", "evaluation", "maintenance"}


def test_strength_is_drawn(tmp_path: Path) -> None:
    assert draw(summaries=[]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    work([SMALL], 4)
    path = draw(tmp_path / "drawn" / "elo.png", summary([SMALL, TWIN]))
    assert path.stat().st_size > 10_000

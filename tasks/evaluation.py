"""Evaluation: a candidate becomes champion only if it is better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks import app
from tasks.gauntlets import CANDIDATE, earlier_generations, generation_name, run_gauntlet
from tasks.registry import ModelStore
from tasks.runs import running


@app.task(name="tasks.evaluation.gauntlet", models="{model}")
def gauntlet(model: str, seed: int | None = None) -> dict[str, Any]:
    """Let a model's candidate meet fixed opponents, the champion and earlier generations.

    It is promoted if its rating is above the champion's, else rejected.

    Args:
        model: its name.
        seed: of all chance; by default made from the job's id.

    Returns:
        Ratings and the verdict; or ``skipped`` with the reason, when no candidate waits (an earlier run
        of the job may have judged it).
    """
    with running("tasks.evaluation.gauntlet", [model], seed) as run:
        store = ModelStore(model, run.token)
        state = store.enter()
        candidate = state.waiting_candidate
        if candidate is None:
            return {"model": model, "skipped": "no candidate"}
        champion = state.champion
        numbers = {champion.number, *earlier_generations(champion.number)}
        verdict = run_gauntlet(
            store.definition,
            store.candidate(candidate),
            {g.number: store.champion(g) for g in state.generations if g.number in numbers},
            state.results,
            run.seed,
            lambda done, total, opponent: run.report(
                done, total, unit="games", opponent=opponent, champion_elo=champion.elo
            ),
        )
        elos, win_rates, results = dict(verdict.elos), {}, verdict.results
        if verdict.champion_win_rate is not None:
            win_rates[champion.number] = verdict.champion_win_rate
        if verdict.promoted:
            number = champion.number + 1
            elos[number], win_rates[number] = verdict.candidate_elo, verdict.win_rate
            results = [
                replace(result, player=generation_name(number))
                if result.player == CANDIDATE
                else result
                for result in results
            ]
        else:
            # A rejected candidate is no generation: its games are kept in the record only.
            results = [result for result in results if result.player != CANDIDATE]
        answer = {
            "model": model,
            "candidate": candidate.number,
            "promoted": verdict.promoted,
            "generation": champion.number + verdict.promoted,
            "elo": round(verdict.candidate_elo),
            "champion_elo": round(verdict.champion_elo),
            "win_rate": round(verdict.win_rate, 3),
            "scores": {
                name: f"{score.points:g}/{score.games}" for name, score in verdict.scores.items()
            },
        }
        store.judge(
            candidate,
            promoted=verdict.promoted,
            results=results,
            elos=elos,
            win_rates=win_rates,
            record=answer,
        )
        return answer

"""The model store: whole files, one owner at a time, nothing counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.atomic import replace_file, sweep
from tasks.elo import Result
from tasks.experience import play_games
from tasks.model_state import Candidate, ModelState
from tasks.models import UnknownModel, definition
from tasks.network import ValueNetwork
from tasks.registry import ChecksumMismatch, ModelStore, NothingToJudge, StaleToken
from tests.helpers import ROOT

MODEL = "tic-tac-toe"


def store(root: Path, token: int | None = None) -> ModelStore:
    return ModelStore(MODEL, token, root)


def trained(seed: int) -> ValueNetwork:
    return ValueNetwork.random(18, (4,), seed)


def promote(writer: ModelStore, candidate: Candidate) -> ModelState:
    return writer.judge(
        candidate,
        promoted=True,
        results=[Result("generation 1", "random", 9, 10)],
        elos={0: 100.0, 1: 300.0},
        win_rates={1: 0.9},
        record={"elo": 300},
    )


def add_batch(writer: ModelStore, job_id: str, games: int = 6) -> None:
    model = definition(MODEL)
    batch = play_games(model.game, trained(0), games, 1)
    writer.batches.save(job_id, batch)


def test_the_first_generation_is_the_same_untrained_network_everywhere(tmp_path: Path) -> None:
    one, two = store(tmp_path / "a"), store(tmp_path / "b")
    for here in (one, two):
        assert here.state().generations == ()
        assert [generation.number for generation in here.ensure().generations] == [0]
        assert here.ensure() == here.state()
    pair = [here.champion(here.state().champion) for here in (one, two)]
    for left, right in zip(pair[0].weights, pair[1].weights, strict=True):
        assert np.array_equal(left, right)


def test_a_candidate_becomes_the_next_generation(tmp_path: Path) -> None:
    writer = store(tmp_path, 1)
    writer.enter()
    add_batch(writer, "job-1")
    state = writer.save_candidate(trained(1), writer.batches.files(), 0.25)
    assert state.candidate is not None
    assert (state.candidate.number, state.candidate.games, state.candidate.loss) == (1, 6, 0.25)
    state = promote(writer, state.candidate)
    assert [(g.number, g.elo, g.win_rate) for g in state.generations] == [
        (0, 100.0, None),
        (1, 300.0, 0.9),
    ]
    assert state.waiting_candidate is None
    assert state == writer.state()
    assert np.array_equal(writer.champion(state.champion).weights[0], trained(1).weights[0])


def test_the_checksum_beside_a_champion_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    writer = store(tmp_path)
    writer.ensure()
    folder = writer.champion_path(0).parent
    subprocess.run(["sha256sum", "--check", "--strict", "0000.npz.sha256"], cwd=folder, check=True)


def test_a_damaged_champion_is_refused(tmp_path: Path) -> None:
    writer = store(tmp_path)
    champion = writer.ensure().champion
    path = writer.champion_path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ChecksumMismatch, match=r"0000\.npz"):
        writer.champion(champion)


def test_a_stale_token_replaces_nothing(tmp_path: Path) -> None:
    old, new = store(tmp_path, 7), store(tmp_path, 8)
    old.enter()
    state = old.save_candidate(trained(1), [], 0.5)
    assert state.candidate is not None
    new.enter()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StaleToken, match="token 7 is older than 8"):
        old.save_candidate(trained(2), [], 0.5)
    with pytest.raises(StaleToken):
        promote(old, state.candidate)
    with pytest.raises(StaleToken):
        old.enter()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert promote(new, state.candidate).champion.number == 1


def test_a_candidate_is_judged_once(tmp_path: Path) -> None:
    writer = store(tmp_path, 1)
    writer.enter()
    candidate = writer.save_candidate(trained(1), [], 0.5).candidate
    assert candidate is not None
    promote(writer, candidate)
    with pytest.raises(NothingToJudge):
        promote(writer, candidate)
    assert len(writer.state().generations) == 2


def test_a_job_brings_its_games_once(tmp_path: Path) -> None:
    writer = store(tmp_path, 1)
    writer.enter()
    for _ in range(2):
        add_batch(writer, "../odd id.1")
    (batch,) = writer.batches.files()
    assert (batch.job_id, batch.games) == ("../odd id.1", 6)
    assert batch.path.parent == writer.folder / "selfplay"
    assert writer.has_batch("../odd id.1")
    state = writer.save_candidate(trained(1), [batch], 0.5)
    assert state.games_used == 6
    assert writer.new_batches(state) == []
    assert writer.save_candidate(trained(2), [batch], 0.5).games_used == 6


def test_old_batches_leave_the_disk_but_not_the_memory(tmp_path: Path) -> None:
    writer = store(tmp_path, 1)
    writer.enter()
    kept = writer.definition.replay_batches
    for number in range(kept + 2):
        add_batch(writer, f"job-{number}")
        os.utime(writer.batches.files()[-1].path, ns=(number, number))
    state = writer.save_candidate(trained(1), writer.batches.files(), 0.5)
    assert [batch.job_id for batch in writer.batches.files()] == [
        f"job-{number}" for number in range(2, kept + 2)
    ]
    assert writer.has_batch("job-0")
    assert state.games_used == 6 * (kept + 2)


def test_only_the_latest_candidate_is_kept_and_learning_goes_on_from_it(tmp_path: Path) -> None:
    writer = store(tmp_path, 1)
    state = writer.enter()
    assert np.array_equal(
        writer.learner(state).weights[0], writer.champion(state.champion).weights[0]
    )
    for seed in (1, 2):
        state = writer.save_candidate(trained(seed), [], 0.5)
    assert np.array_equal(writer.learner(state).weights[0], trained(2).weights[0])
    assert [path.name for path in (writer.folder / "candidates").iterdir()] == ["0002.npz"]


#: What a promotion renames, in this order.
RENAMED = ("0001.npz", "0001.npz.sha256", "0001.json", "state.json")

#: The real store in real processes, one for each rename, which the kernel kills in place of it.
KILLED_WRITERS = """
import os, pathlib, signal, sys
from tasks.registry import ModelStore
rename = os.replace
root, model, names = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
for name in names:
    def killed(source, target):
        if pathlib.Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
    child = os.fork()
    if child == 0:
        os.replace = killed
        store = ModelStore(model, 1, root / name)
        verdict = dict(promoted=True, results=[], elos={}, win_rates={}, record={})
        store.judge(store.state().waiting_candidate, **verdict)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, name
"""


def test_a_writer_killed_before_a_rename_leaves_the_old_champion(tmp_path: Path) -> None:
    before = {}
    for name in RENAMED:
        writer = store(tmp_path / name, 1)
        writer.enter()
        writer.save_candidate(trained(1), [], 0.5)
        before[name] = writer.state()
    command = [sys.executable, "-c", KILLED_WRITERS, str(tmp_path), MODEL, *RENAMED]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in RENAMED:
        writer = store(tmp_path / name, 1)
        assert writer.state() == before[name]
        writer.champion(before[name].champion)
        # What the dead writer left is no obstacle: its lock is free, its files are written again.
        candidate = before[name].candidate
        assert candidate is not None
        state = promote(writer, candidate)
        assert state.champion.number == 1
        writer.champion(state.champion)
        assert len(list((tmp_path / name).rglob(".*.tmp"))) == 1
        assert sweep(tmp_path / name) == 0
        assert sweep(tmp_path / name, older_than=0) == 1


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OSError, match="folder"):
        replace_file(target, b"data")
    assert list(tmp_path.iterdir()) == [target]


def test_the_state_survives_its_file() -> None:
    state = ModelState(
        token=3,
        candidate=Candidate(1, "ab", 10, 0.5),
        used=("a", "b"),
        results=(Result("a", "b", 1.5, 2),),
    )
    assert ModelState.from_bytes(state.to_bytes()) == state
    assert ModelState.from_bytes(replace(state, candidate=None).to_bytes()).candidate is None


def test_an_unknown_model_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'tic-tac-toe'"):
        definition("tic-tac-to")


def test_promotion_is_dated(tmp_path: Path) -> None:
    assert abs(store(tmp_path).ensure().champion.at - time.time()) < 60

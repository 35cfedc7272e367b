"""The model store: a folder for each model, every file written whole or not at all.

    models/<model>/state.json                 which files count, ratings, highest fencing token
                   selfplay/<job>.<games>.npz a batch of games; the name makes a repeated job harmless
                   candidates/<number>.npz    what the latest training made; the next goes on from it
                   champions/<number>.npz     one for each generation, with .sha256 beside it
                   results/<number>.json      the gauntlet of each candidate

Networks never change once ``state.json`` names them: a change is new files first, then the one replacement
of ``state.json``. So a crash in between leaves the old champion, and what it left is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.atomic import locked, replace_file, sweep
from tasks.batches import BatchFile, BatchFolder
from tasks.elo import Result
from tasks.model_state import REMEMBERED, Candidate, Generation, ModelState, merged
from tasks.models import ModelDefinition, definition
from tasks.network import ValueNetwork


class StaleToken(RuntimeError):
    """A newer run has touched the model since: this one has lost its lock and must not write."""


class ChecksumMismatch(RuntimeError):
    """A file is not the one that was promoted: damaged, or not yet copied completely."""


class NothingToJudge(RuntimeError):
    """The candidate was judged or replaced meanwhile."""


def data_dir() -> Path:
    """Return the data folder (``COORDINATOR_DATA_DIR``, else ``.coordinator``)."""
    return Path(os.environ.get("COORDINATOR_DATA_DIR") or ".coordinator").expanduser()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ModelStore:
    """The files of one model.

    Attributes:
        definition: of the model.
        folder: where they lie.
        batches: of self-play.
        token: fencing token of the run that writes; None outside a job, where nobody checks.
    """

    def __init__(
        self, model: str | ModelDefinition, token: int | None = None, root: Path | None = None
    ) -> None:
        """Open the store of a model; nothing is read or written yet.

        Args:
            model: name or definition.
            token: fencing token of this run.
            root: folder of all models; by default ``models`` in the data folder.

        Raises:
            UnknownModel: no model of this name.
        """
        self.definition = definition(model) if isinstance(model, str) else model
        self.folder = (root or data_dir() / "models") / self.definition.name
        self.batches = BatchFolder(self.folder / "selfplay")
        self.token = token

    # Reading

    def state(self) -> ModelState:
        """Return what is known; a model that was never touched has no generations."""
        try:
            return ModelState.from_bytes((self.folder / "state.json").read_bytes())
        except FileNotFoundError:
            return ModelState()

    def champion_path(self, generation: int) -> Path:
        return self.folder / "champions" / f"{generation:04}.npz"

    def candidate_path(self, number: int) -> Path:
        return self.folder / "candidates" / f"{number:04}.npz"

    def champion(self, generation: Generation) -> ValueNetwork:
        """Return the network of a generation.

        Raises:
            ChecksumMismatch: its file is not the one that was promoted.
        """
        return self._network(self.champion_path(generation.number), generation.sha256)

    def learner(self, state: ModelState) -> ValueNetwork:
        """Return the network that the next training goes on from: the latest trained, promoted or not."""
        if state.candidate is None:
            return self.champion(state.champion)
        return self.candidate(state.candidate)

    def candidate(self, candidate: Candidate) -> ValueNetwork:
        """Return the network of a candidate.

        Raises:
            ChecksumMismatch: its file is not the one that was trained.
        """
        return self._network(self.candidate_path(candidate.number), candidate.sha256)

    def _network(self, path: Path, sha256: str) -> ValueNetwork:
        return ValueNetwork.from_bytes(self._verified(path, sha256))[0]

    def _verified(self, path: Path, sha256: str) -> bytes:
        data = path.read_bytes()
        if (found := sha256_of(data)) != sha256:
            raise ChecksumMismatch(f"{path}: SHA-256 is {found[:12]}..., expected {sha256[:12]}...")
        return data

    # Self-play

    def new_batches(self, state: ModelState) -> list[BatchFile]:
        """Return the batches no training has used yet, oldest first."""
        used = set(state.used)
        return [batch for batch in self.batches.files() if batch.job_id not in used]

    def has_batch(self, job_id: str) -> bool:
        """Return whether this job has already brought its games: a repeated run has nothing to do."""
        if job_id in self.state().used:
            return True
        return any(batch.job_id == job_id for batch in self.batches.files())

    # Writing

    def _change(self, change: Callable[[ModelState], ModelState]) -> ModelState:
        """Replace the state by what ``change`` makes of it, alone and only with a token that is not stale."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            state = self.state()
            if self.token is not None:
                if self.token < state.token:
                    raise StaleToken(
                        f"{self.definition.name}: token {self.token} is older than {state.token}, which has "
                        f"written since (after a reset of the coordinator's store set the token in "
                        f"{self.folder / 'state.json'} to 0)"
                    )
                state = replace(state, token=self.token)
            changed = change(state)
            replace_file(self.folder / "state.json", changed.to_bytes())
            return changed

    def ensure(self) -> ModelState:
        """Return the state, with the untrained network as generation 0 if there was none."""
        state = self.state()
        if state.generations:
            return state

        def create(state: ModelState) -> ModelState:
            if state.generations:
                return state
            model = self.definition
            network = ValueNetwork.random(model.game.inputs, model.hidden, model.first_seed)
            sha256 = self._write_champion(
                0, network.to_bytes({"model": model.name, "generation": 0})
            )
            first = Generation(0, sha256, 0, None, None, time.time())
            return replace(state, generations=(first,))

        return ModelStore(self.definition, None, self.folder.parent)._change(create)

    def enter(self) -> ModelState:
        """Announce a run that will replace networks: from now on older tokens are refused.

        Raises:
            StaleToken: a newer run was here before.
        """
        self.ensure()
        return self._change(lambda state: state)

    def _write_champion(self, number: int, data: bytes) -> str:
        path = self.champion_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = sha256_of(data)
        replace_file(path, data)
        replace_file(path.with_name(path.name + ".sha256"), f"{sha256}  {path.name}\n".encode())
        return sha256

    def save_candidate(
        self, network: ValueNetwork, used: list[BatchFile], loss: float
    ) -> ModelState:
        """Make ``network`` the candidate and note which batches it has used.

        Batches beyond the replay window are removed.

        Raises:
            StaleToken: a newer run has touched the model since.
        """
        model = self.definition

        def change(state: ModelState) -> ModelState:
            number = state.trainings + 1
            fresh = [batch for batch in used if batch.job_id not in state.used]
            games = state.games_used + sum(batch.games for batch in fresh)
            data = network.to_bytes({"model": model.name, "training": number, "games": games})
            path = self.candidate_path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
            return replace(
                state,
                candidate=Candidate(number, sha256_of(data), games, loss),
                games_used=games,
                used=(*state.used, *(batch.job_id for batch in fresh))[-REMEMBERED:],
            )

        state = self._change(change)
        self._tidy(state)
        return state

    def _tidy(self, state: ModelState) -> None:
        """Remove what nothing refers to any more."""
        kept = self.candidate_path(state.candidate.number) if state.candidate else None
        for path in (self.folder / "candidates").glob("[!.]*.npz"):
            if path != kept:
                path.unlink(missing_ok=True)
        used = set(state.used)
        spent = [batch for batch in self.batches.files() if batch.job_id in used]
        self.batches.remove(spent[: -self.definition.replay_batches])
        sweep(self.folder)

    def judge(
        self,
        candidate: Candidate,
        *,
        promoted: bool,
        results: list[Result],
        elos: dict[int, float],
        win_rates: dict[int, float],
        record: dict[str, Any],
    ) -> ModelState:
        """Record a gauntlet and, if it was won, make the candidate the next champion.

        Args:
            candidate: who was judged.
            promoted: whether it is better than the champion.
            results: new results of generations and fixed opponents; a promoted candidate has its new number.
            elos: ratings by generation.
            win_rates: against random play by generation, for those measured.
            record: of the gauntlet, kept beside.

        Raises:
            StaleToken: a newer run has touched the model since.
            NothingToJudge: the candidate was judged or replaced meanwhile.
        """

        def change(state: ModelState) -> ModelState:
            if state.waiting_candidate != candidate:
                raise NothingToJudge(
                    f"{self.definition.name}: candidate {candidate.number} is gone"
                )
            generations = list(state.generations)
            if promoted:
                data = self._verified(self.candidate_path(candidate.number), candidate.sha256)
                number = state.champion.number + 1
                sha256 = self._write_champion(number, data)
                generations.append(
                    Generation(number, sha256, candidate.games, None, None, time.time())
                )
            path = self.folder / "results" / f"{candidate.number:04}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(record, indent=1).encode())
            return replace(
                state,
                generations=tuple(
                    replace(
                        one,
                        elo=elos.get(one.number, one.elo),
                        win_rate=win_rates.get(one.number, one.win_rate),
                    )
                    for one in generations
                ),
                candidate=replace(candidate, judged=True),
                rejected=state.rejected + (not promoted),
                results=merged((*state.results, *results)),
            )

        return self._change(change)

"""What is known of a model: the one small file that says which of its other files count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tasks.elo import Result

#: Batches remembered after they were used and removed, so that a job that runs again much later
#: does not bring its games a second time.
REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Generation:
    """A network that became champion.

    Attributes:
        number: 0 is the untrained network.
        sha256: of its file.
        games: self-play games that had been used when it was trained.
        elo: its rating, random play being 0; None until it was measured.
        win_rate: share of games it won against random play, 0 to 1; None until it was measured.
        at: when it was promoted, seconds since 1970.
    """

    number: int
    sha256: str
    games: int
    elo: float | None
    win_rate: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained network.

    Attributes:
        number: of the training.
        sha256: of its file.
        games: self-play games used so far.
        loss: at the end of its training.
        judged: whether its gauntlet was played.
    """

    number: int
    sha256: str
    games: int
    loss: float
    judged: bool = False


@dataclass(frozen=True, slots=True)
class ModelState:
    """All of it.

    Attributes:
        token: highest fencing token of those who replace networks.
        generations: all champions, the present one last; empty before the model was first touched.
        candidate: the latest trained network.
        rejected: candidates that were not better than the champion.
        games_used: self-play games used in trainings.
        used: ids of the batches that were used, oldest first.
        results: what the generations and the fixed opponents scored.
    """

    token: int = 0
    generations: tuple[Generation, ...] = ()
    candidate: Candidate | None = None
    rejected: int = 0
    games_used: int = 0
    used: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()

    @property
    def champion(self) -> Generation:
        return self.generations[-1]

    @property
    def trainings(self) -> int:
        return self.candidate.number if self.candidate else 0

    @property
    def waiting_candidate(self) -> Candidate | None:
        """The candidate whose gauntlet is still to be played, if any."""
        if self.candidate is None or self.candidate.judged:
            return None
        return self.candidate

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelState:
        """Return the state in a file.

        Raises:
            ValueError, KeyError, TypeError: the data is no such file.
        """
        known: dict[str, Any] = json.loads(data)
        candidate = known["candidate"]
        return cls(
            token=known["token"],
            generations=tuple(Generation(**item) for item in known["generations"]),
            candidate=Candidate(**candidate) if candidate else None,
            rejected=known["rejected"],
            games_used=known["games_used"],
            used=tuple(known["used"]),
            results=tuple(Result(**item) for item in known["results"]),
        )


def merged(results: Iterable[Result]) -> tuple[Result, ...]:
    """Return the results with those of the same two players added up."""
    found: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result.player, result.opponent)
        before = found.get(key, Result(*key, 0, 0))
        found[key] = Result(*key, before.points + result.points, before.games + result.games)
    return tuple(found.values())

"""``python -m tests.chaos``: run the drills, print a table with exact counts, exit 1 on a loss or an overlap."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.drills import DRILLS, Drill
from tests.chaos.traces import Counts


@dataclass
class Outcome:
    """What came of one repetition."""

    drill: str
    seed: int
    counts: Counts | None
    seconds: float
    remark: str
    error: str = ""

    @property
    def good(self) -> bool:
        return not self.error and self.counts is not None and self.counts.good


def run(drill: Drill, seed: int, folder: Path) -> Outcome:
    """Run one drill once."""
    began, counts, remark, error = time.monotonic(), None, "", ""
    try:
        with Cluster(folder, **drill.options) as cluster:
            remark = drill.strike(cluster, random.Random(seed)) or ""
            counts = cluster.settle()
            if counts.good:
                cluster.verify()
                counts = cluster.count()
            assert not drill.runs_killed or counts.killed, (
                "no run was hit: the drill proved nothing"
            )
    except Exception as problem:  # noqa: BLE001 - becomes a line of the table; the next drill goes on
        error = "".join(traceback.format_exception_only(problem)).strip()
        traceback.print_exc(file=sys.stderr)
    return Outcome(drill.name, seed, counts, time.monotonic() - began, remark, error)


HEADER = (
    "drill",
    "seed",
    "accepted",
    "completed",
    "lost",
    "twice",
    "overlaps",
    "killed",
    "again",
    "s",
)


def line(outcome: Outcome) -> str:
    """Return an outcome as a line of the table."""
    counts = outcome.counts
    numbers: tuple[object, ...] = ("-",) * 7
    if counts is not None:
        numbers = (
            counts.accepted,
            counts.completed,
            len(counts.lost),
            len(counts.twice),
            len(counts.overlaps),
            counts.killed,
            len(counts.again),
        )
    cells = (outcome.drill, outcome.seed, *numbers, f"{outcome.seconds:.0f}")
    return _cells(cells) + f"  {outcome.error[:300] or outcome.remark}"


def _cells(cells: tuple[object, ...]) -> str:
    first, *rest = cells
    return f"{first!s:<26}" + "".join(f"{cell!s:>10}" for cell in rest)


def say(text: str) -> None:
    """Print a line at once: a drill takes half a minute."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--drill", action="append", choices=sorted(DRILLS), default=[])
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first repetition")
    parser.add_argument("--keep", type=Path, help="folder that keeps logs and traces")
    options = parser.parse_args()
    outcomes = []
    say(_cells(HEADER))
    for name in options.drill or DRILLS:
        for seed in range(options.seed, options.seed + options.repeat):
            folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-")) / "run"
            outcome = run(DRILLS[name], seed, folder)
            outcomes.append(outcome)
            say(line(outcome))
            if outcome.counts is not None:
                for problem in (
                    *outcome.counts.lost,
                    *outcome.counts.twice,
                    *outcome.counts.overlaps,
                ):
                    say(f"    {problem}")
            if options.keep and not outcome.good:
                shutil.copytree(folder, options.keep / f"{name}-{seed}", dirs_exist_ok=True)
            shutil.rmtree(folder.parent)
    bad = [outcome for outcome in outcomes if not outcome.good]
    say(
        f"{len(outcomes) - len(bad)} of {len(outcomes)} repetitions without a loss, overlap or failure"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

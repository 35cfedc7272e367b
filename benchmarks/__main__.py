"""``python -m benchmarks``: measure, and hold the figures against the bars."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.comparison import compared
from benchmarks.harness import run
from benchmarks.peers import PEERS
from benchmarks.profiles import profiles
from benchmarks.report import Result, document, markdown
from benchmarks.systems import SYSTEMS
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

_NAMES = "\n".join(f"  {name:<12} {workload.title}" for name, workload in WORKLOADS.items())
_SYSTEMS = "\n".join(f"  {name:<18} {system.title}" for name, system in SYSTEMS.items())

COMPARED = tuple(compared())
COMPARED_SYSTEMS = (*SYSTEMS, *PEERS)


@click.command(epilog=f"\b\nWorkloads:\n{_NAMES}\n\n\b\nSystems:\n{_SYSTEMS}")
@click.argument("names", nargs=-1, type=click.Choice(list(WORKLOADS)), metavar="[NAME]...")
@click.option(
    "--runs", type=click.IntRange(1), help="Repetitions of each (default: its own, 3 or 5)."
)
@click.option(
    "--quick", is_flag=True, help="Tiny sizes, once: shows that all works, measures nothing."
)
@click.option(
    "--system", "only", multiple=True, type=click.Choice(list(SYSTEMS)), help="Only these."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Figures."
)
@click.option("--markdown", "report_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--profile", type=click.Path(path_type=Path, file_okay=False), help="Folder of profiles."
)
def main(
    names: tuple[str, ...],
    runs: int | None,
    quick: bool,
    only: tuple[str, ...],
    json_file: Path | None,
    report_file: Path | None,
    profile: Path | None,
) -> None:
    """Measure the coordinator beside plain Celery and the usual recipe, in turn, on this machine.

    With the word peers instead of names: beside other projects' queues (see peers --help).

    Ends with 1 when something was lost, doubled, out of order or could not be run; bars that are not held
    are shown and change nothing. A profile slows down what it profiles: its figures are no measurement.
    """
    folder = profile.resolve() if profile else None
    chosen = [WORKLOADS[name] for name in names or WORKLOADS]
    results = _measured(chosen, runs, quick, only, json_file, report_file, folder)
    if profile:
        (profile / "profiles.txt").write_text(profiles(profile))
        print(f"Profiles: {profile / 'profiles.txt'}")
    sys.exit(1 if any(result.violations or result.failures for result in results) else 0)


def _measured(
    workloads: Sequence[Workload],
    runs: int | None,
    quick: bool,
    only: Collection[str],
    json_file: Path | None,
    report_file: Path | None,
    profile: Path | None = None,
) -> list[Result]:
    """Run workloads and report them, also while it goes on."""
    facts = machine.describe(Path(tempfile.gettempdir()))
    results: list[Result] = []
    for workload in workloads:
        sizes = workload.quick if quick else workload.sizes
        repetitions = runs or (1 if quick else workload.runs)
        result = run(workload, sizes, repetitions, _tell, only, profile)
        results.append(result)
        # Written after each workload: hours of measuring must not be lost to the last one.
        facts["load_after"] = machine.load()
        if json_file:
            json_file.write_text(json.dumps(document(results, facts, quick), indent=1) + "\n")
        if report_file:
            report_file.write_text(markdown(results, facts, quick))
    print(markdown(results, facts, quick))
    return results


@click.command()
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice([*COMPARED, *COMPARED_SYSTEMS]),
    help="Only these workloads and systems, of: " + ", ".join([*COMPARED, *COMPARED_SYSTEMS]),
)
@click.option(
    "--runs", type=click.IntRange(1), help="Repetitions (default: 3 of throughput, else 1)."
)
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that all works, measures nothing.")
@click.option(
    "--blocked", type=click.IntRange(1), default=100_000, show_default=True, help="In the backlog."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--markdown", "report_file", type=click.Path(path_type=Path, dir_okay=False))
def peers(
    only: tuple[str, ...],
    runs: int | None,
    quick: bool,
    blocked: int,
    json_file: Path | None,
    report_file: Path | None,
) -> None:
    """Measure the same jobs on other projects' queues, in turn, in half an hour; make peers installs them.

    Ends with 1 when the coordinator or Celery lost, doubled or could not run something. What a peer did wrong is
    in the report; one that is not installed is listed there as that.
    """
    workloads = [
        one for name, one in compared(blocked).items() if not {*only} & {*COMPARED} or name in only
    ]
    systems = {*only} & {*COMPARED_SYSTEMS}
    results = _measured(workloads, runs, quick, systems, json_file, report_file)
    wrong = [line for result in results for line in (*result.violations, *result.failures)]
    sys.exit(1 if any(line.startswith(("coordinated", "celery")) for line in wrong) else 0)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peers"]:
        peers(sys.argv[2:], prog_name="python -m benchmarks peers")
    main(prog_name="python -m benchmarks")

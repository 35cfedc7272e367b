"""``python -m benchmarks``: measure, and hold the figures against the bars."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.harness import run
from benchmarks.profiles import profiles
from benchmarks.report import document, markdown
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

_NAMES = "\n".join(f"  {name:<12} {workload.title}" for name, workload in WORKLOADS.items())
_SYSTEMS = "\n".join(f"  {name:<18} {system.title}" for name, system in SYSTEMS.items())


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

    Ends with 1 when something was lost, doubled, out of order or could not be run; bars that are not held
    are shown and change nothing. A profile slows down what it profiles: its figures are no measurement.
    """
    facts = machine.describe(Path(tempfile.gettempdir()))
    results = []
    for name in names or WORKLOADS:
        workload = WORKLOADS[name]
        sizes = workload.quick if quick else workload.sizes
        repetitions = runs or (1 if quick else workload.runs)
        folder = profile.resolve() if profile else None
        result = run(workload, sizes, repetitions, _tell, only, folder)
        results.append(result)
        # Written after each workload: hours of measuring must not be lost to the last one.
        facts["load_after"] = machine.load()
        if json_file:
            json_file.write_text(json.dumps(document(results, facts, quick), indent=1) + "\n")
        if report_file:
            report_file.write_text(markdown(results, facts, quick))
    print(markdown(results, facts, quick))
    if profile:
        (profile / "profiles.txt").write_text(profiles(profile))
        print(f"Profiles: {profile / 'profiles.txt'}")
    sys.exit(1 if any(result.violations or result.failures for result in results) else 0)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

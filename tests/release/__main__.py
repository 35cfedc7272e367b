"""``make release-check``: run everything, and print one table of features with what shows them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import click

from tests.helpers import ROOT
from tests.release.features import FAILED, NOT_RUN, PASSED, SKIPPED, Feature, features, outcomes

REPORTS = ROOT / "build" / "release"
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")

#: The Pythons that are promised beside the one of the tests, which runs the step "wheel".
OTHER_PYTHONS = ("python3.12", "python3.13")
_WHEEL = (*_PYTEST, "-m", "wheel", "tests/test_wheel.py")

#: What is run, by name; those of pytest leave a report.
STEPS: dict[str, tuple[str, ...]] = {
    "check": ("make", "--no-print-directory", "check"),
    "tests": (
        *(*_PYTEST, "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"),
        *("-m", "not chaos and not wheel"),
    ),
    "chaos": (*_PYTEST, "-m", "chaos"),
    "wheel": _WHEEL,
    **{f"wheel-{name[6:]}": ("env", f"WHEEL_PYTHON={name}", *_WHEEL) for name in OTHER_PYTHONS},
    "benchmarks": (sys.executable, "-m", "benchmarks", "--quick"),
}


@click.command()
@click.option("--only", multiple=True, metavar="ID", help="Only the tests of these features.")
@click.option("--skip", multiple=True, type=click.Choice(list(STEPS)), help="Leave a step out.")
@click.option("--show", is_flag=True, help="Run nothing; show what the last reports say.")
def main(only: tuple[str, ...], skip: tuple[str, ...], show: bool) -> None:
    """Run lint, types, all tests, the drills, the wheel and the benchmarks once; print one table.

    Ends with 1 unless every step and every feature has passed. A skipped test has not, nor a Python that is not here.
    """
    chosen = [one for one in features() if not only or one.id in only]
    if unknown := {*only} - {one.id for one in chosen}:
        raise click.UsageError(f"no such feature: {', '.join(sorted(unknown))}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    steps = (
        {}
        if show
        else _steps(chosen)
        if only
        else {k: v for k, v in STEPS.items() if k not in skip}
    )
    if steps:
        for report in REPORTS.glob("*.xml"):
            report.unlink()
    ran = [(name, *_run(name, command)) for name, command in steps.items()]
    found = outcomes(sorted(REPORTS.glob("*.xml")))
    width = max(len(one.title) for one in chosen)
    click.echo(f"\n{'id':<4} {'feature':<{width}} {'tests':>5}  outcome")
    for one in chosen:
        passed = sum(found.get(test) == PASSED for test in one.tests)
        click.echo(
            f"{one.id:<4} {one.title:<{width}} {passed:>2}/{len(one.tests):<2}  {one.outcome(found)}"
        )
        for test in one.tests:
            if (became := found.get(test, NOT_RUN)) != PASSED:
                click.echo(f"       {became}: {test}")
    click.echo()
    for name, outcome, seconds in ran:
        click.echo(f"{name:<12} {outcome:<8} {seconds:7.0f} s   {' '.join(_shown(steps[name]))}")
    for name in skip:
        click.echo(f"{name:<12} left out")
    good = all(outcome == PASSED for _, outcome, _ in ran)
    good = good and not skip and all(one.outcome(found) == PASSED for one in chosen)
    click.echo("\nAll has passed." if good else "\nNot everything has passed.")
    sys.exit(0 if good else 1)


def _steps(chosen: list[Feature]) -> dict[str, tuple[str, ...]]:
    names = {str(test).partition("::")[2] for one in chosen for test in one.tests}
    files = sorted({test.path for one in chosen for test in one.tests})
    # By name, so that parameters and classes come along.
    return {"tests": (*_PYTEST, *files, "-k", " or ".join(sorted(names)))}


def _run(name: str, command: tuple[str, ...]) -> tuple[str, float]:
    click.echo(f"== {name}: {' '.join(_shown(command))}")
    if name.startswith("wheel-") and not _runs(f"python{name[6:]}"):
        click.echo(f"no {name[6:]} of Python on PATH that makes virtual environments")
        return SKIPPED, 0.0
    if "pytest" in command:
        command = (*command, f"--junitxml={REPORTS / name}.xml")
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return (FAILED if code else PASSED), time.monotonic() - began


def _runs(python: str) -> bool:
    # One that is found need not run: version managers leave a placeholder for each version they know.
    found = shutil.which(python)
    ask = (found or "", "-c", "import ensurepip")
    return (
        found is not None and subprocess.run(ask, capture_output=True, check=False).returncode == 0
    )


def _shown(command: tuple[str, ...]) -> list[str]:
    words = ["python" if word == sys.executable else word for word in command]
    return [f"'{word}'" if " " in word else word for word in words]


if __name__ == "__main__":
    main(prog_name="python -m tests.release")

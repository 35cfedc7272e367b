"""The harness: runs workloads repetition by repetition, whatever fails on the way."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

from benchmarks.figures import Row
from benchmarks.processes import LimitReached, SystemFailed
from benchmarks.report import Result
from benchmarks.workload import Case, Context, Sizes, Workload

Tell = Callable[[str], None]

_Measured: TypeAlias = list[Row] | SystemFailed


def run(
    workload: Workload,
    sizes: Sizes,
    runs: int,
    tell: Tell,
    only: Collection[str] = (),
    profile: Path | None = None,
) -> Result:
    """Run one workload.

    Args:
        workload: what to run.
        sizes: how large.
        runs: repetitions; in each, all cases are measured in turn.
        tell: gets a line for each case that was measured, or could not be.
        only: names of systems, if not all are wanted.
        profile: folder for profiles of the first repetition, or None.
    """
    result = Result(workload, dict(sizes), partial=bool(only))
    cases = [case for case in workload.cases(sizes) if not only or case.system in (None, *only)]
    broken: set[str] = set()
    for number in range(1, runs + 1):
        rows: dict[str, Row] = {}
        result.repetitions.append(rows)
        folder = profile / workload.name if profile and number == 1 else None
        left = [case for case in cases if case.name not in broken]
        measure = partial(_tried, workload, sizes, folder)
        measured = _together(measure, left) if workload.together else map(measure, left)
        for case, found in zip(left, measured, strict=True):
            shown = f"{workload.name} {number}/{runs} {case.name}"
            if isinstance(found, SystemFailed):
                # It would fail in every repetition, each after its full time.
                broken.add(case.name)
                result.failures.append(f"{case.name}: {found}")
                tell(f"{shown}: NOT RUN: {found}")
                continue
            for row in found:
                rows[row.name] = row
                tell(f"{shown}: {_line(workload, row)}")
    return result


def _together(measure: Callable[[Case], _Measured], cases: Sequence[Case]) -> list[_Measured]:
    # Programs are ended by the thread that started them: to the kernel that thread is their parent.
    with ThreadPoolExecutor(max(1, len(cases))) as pool:
        return list(pool.map(measure, cases))


def _tried(workload: Workload, sizes: Sizes, profile: Path | None, case: Case) -> _Measured:
    try:
        return _once(workload, case, sizes, profile)
    except SystemFailed as error:
        return error
    except LimitReached as error:
        return [Row(case.name, violations=_broken(case, error), notes=[str(error)])]


def _broken(case: Case, error: LimitReached) -> list[str]:
    # A peer that does not get done is a finding; the coordinator that does not is an error.
    own = case.system is None or case.system.startswith("coordinated")
    return [str(error)] if own else []


def _once(workload: Workload, case: Case, sizes: Sizes, profile: Path | None) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        return workload.measure(Context(case, sizes, folder, profile))
    except SystemFailed as error:
        # The cause may be in the log of another process than the one that was missed first.
        others = [
            f"{log.name}: {text[-1500:]}"
            for log in sorted(folder.glob("*.log"))
            if (text := log.read_text(errors="replace").strip()) and text[-200:] not in str(error)
        ]
        raise SystemFailed("\n".join([str(error), *others])) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _line(workload: Workload, row: Row) -> str:
    shown = [
        f"{metric.title} {value:,.{metric.digits}f}"
        for metric in workload.metrics
        if (value := row.figures.get(metric.name)) is not None
    ]
    wrong = [f"VIOLATION: {text}" for text in row.violations]
    return f"{row.name}: {', '.join([*shown, *row.notes, *wrong])}"

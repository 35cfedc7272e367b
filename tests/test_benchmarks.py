"""The benchmarks' own correctness: what they conclude from traces, and tiny runs. No figure is judged."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main, peers
from benchmarks.batch import Batch
from benchmarks.comparison import compared
from benchmarks.figures import Bar, Metric, Row, quantile, ratios, summary
from benchmarks.harness import run as run_workload
from benchmarks.peers import HERE as PEERS_FOLDER
from benchmarks.peers import PEERS
from benchmarks.processes import LimitReached, Program, SystemFailed, until
from benchmarks.report import Result, section
from benchmarks.systems import SYSTEMS
from benchmarks.trace import (
    RAN,
    REFUSED,
    Run,
    Trace,
    Writer,
    disorder,
    gaps,
    missing,
    overlaps,
    repeated,
)
from benchmarks.workload import Case, Context, Workload
from benchmarks.workloads import WORKLOADS, contended, ledger
from tests.helpers import eventually

MS = 1_000_000


def run(number: int, began: int, ended: int) -> Run:
    """A run from millisecond to millisecond."""
    return Run(number, began * MS, ended * MS, 1)


def parity(number: int) -> str:
    return "odd" if number % 2 else "even"


def test_overlaps_are_counted_per_model_and_a_long_run_overlaps_all_it_covers() -> None:
    one_after_the_other = [run(0, 0, 10), run(1, 5, 15), run(2, 10, 20), run(3, 15, 25)]
    assert overlaps(one_after_the_other, parity) == 0
    assert overlaps([run(0, 0, 100), run(2, 10, 20), run(4, 30, 40), run(6, 100, 101)], parity) == 2


def test_disorder_counts_late_jobs_and_how_far_they_fell_behind() -> None:
    assert disorder([run(n, n, n) for n in range(6)], parity).jobs == 0
    late = disorder([run(2, 0, 0), run(4, 1, 1), run(0, 2, 2), run(1, 3, 3)], parity)
    assert (late.jobs, late.farthest) == (1, 2)


def test_gaps_follow_the_order_of_the_starts() -> None:
    assert gaps([run(1, 12, 20), run(0, 0, 10), run(2, 25, 26)]) == [2.0, 5.0]


def test_lost_and_repeated_jobs_are_seen() -> None:
    runs = [run(0, 0, 1), run(2, 1, 2), run(2, 3, 4)]
    assert missing(runs, range(4)) == 2
    assert repeated(runs) == 1


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    trace, writer = Trace(tmp_path), Writer(tmp_path)
    for number in (3, 1_000_000_001):
        writer.write(RAN, number, 42)
    writer.write(REFUSED, 5, 42)
    with (tmp_path / f"{RAN}-{os.getpid()}").open("ab") as torn:
        torn.write(b"00000")
    assert trace.count(RAN) == 2
    found = trace.read(RAN)
    assert [one.number for one in found] == [3, 1_000_000_001]
    assert all(one.began == 42 < one.ended and one.pid == os.getpid() for one in found)
    assert trace.count(REFUSED) == 1
    trace.clear()
    writer.write(RAN, 7, 42)
    assert [one.number for one in trace.read(RAN)] == [7]


def test_quantiles_medians_and_what_did_not_happen() -> None:
    assert [quantile([4, 1, 3, 2], share) for share in (0.0, 0.5, 0.75, 0.99)] == [1, 2, 3, 4]
    found = summary([5.0, None, 1.0])
    assert found is not None
    assert (found.median, found.least, found.most, found.count) == (3.0, 1.0, 5.0, 2)
    assert summary([5.0, None]) is None
    assert ratios([6.0, None, 1.0], [3.0, 1.0, None]) == [2.0, None, None]


def test_a_report_compares_within_repetitions_and_holds_figures_against_bars() -> None:
    workload = Workload(
        "demo",
        "Demo",
        "",
        lambda _: [],
        (Metric("speed", "speed", ratio=True),),
        lambda _: [],
        {},
        {},
        bars=lambda _: [
            Bar("own", "speed", ratio=True, least=2),
            Bar("own", "speed", most=10),
            Bar("gone", "speed", most=10),
        ],
    )
    result = Result(workload, {})
    # The ratio of the medians would be 3: it is the median of the ratios that counts.
    for plain, own in ((10.0, 20.0), (1.0, 30.0), (100.0, 200.0)):
        rows = [Row("celery", {"speed": plain}), Row("own", {"speed": own})]
        result.repetitions.append({row.name: row for row in rows})
    assert [(value, holds) for _, value, holds in result.held()] == [
        (2.0, True),
        (30.0, False),
        (None, False),
    ]
    result.partial = True
    assert [bar.row for bar, _, _ in result.held()] == ["own", "own"]
    assert "| own | 3 | 30 [20..200] | 2.00 [2.00..30.00] |" in section(result)


def test_a_program_that_dies_or_cannot_be_run_is_named_with_its_log(tmp_path: Path) -> None:
    program = Program(
        "short", [sys.executable, "-c", "import sys; sys.exit('no luck')"], {}, tmp_path
    )
    program.process.wait(30)
    with pytest.raises(SystemFailed, match=r"short ended with code 1:\nno luck"):
        program.check()
    program.end()


def test_a_frozen_program_stands_still_and_leaves_nobody_behind(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    program = Program("busy", [sys.executable, "-c", code], {}, tmp_path)
    try:
        eventually(lambda: program.cpu() > 0.1 and len(program.tree()) == 2, timeout=30)
        program.freeze()
        eventually(lambda: {one.status() for one in program.tree()} == {"stopped"})
        used, members = program.cpu(), program.tree()
        assert program.memory().pss > 0
        program.thaw()
        eventually(lambda: program.cpu() > used + 0.1, timeout=30)
    finally:
        program.end()
    assert not [one for one in members if one.is_running() and one.status() != "zombie"]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["celery-lock01", "coordinated"])
def test_a_contended_run_counts_every_job_once(system: str, tmp_path: Path) -> None:
    sizes = {"jobs": 30, "models": 3, "ms": 2, "slots": 2, "limit": 60}
    (row,) = contended.measure(Context(Case(system, system), sizes, tmp_path))
    assert row.violations == []
    assert row.figures["overlaps"] == 0
    trace = Trace(tmp_path / "trace")
    assert len(trace.read()) == sizes["jobs"]
    assert row.figures["refused"] == trace.count(REFUSED)
    if system == "coordinated":
        assert (row.figures["refused"], row.figures["disorder"]) == (0, 0)


@pytest.mark.slow
def test_the_ledger_is_measured_at_the_stated_number_of_waiting_jobs(tmp_path: Path) -> None:
    sizes = {"cycles": 5, "slots": 2, "levels": (20, 60), "starts": 240, "fair_slots": 2}
    case = Case("models 3", values={"models": 3})
    rows = ledger.measure(Context(case, sizes, tmp_path / "levels"))
    assert [row.name for row in rows] == ["models 3, 20 waiting", "models 3, 60 waiting"]
    for row in rows:
        assert row.violations == []
        for name in ("submit", "claim", "finish", "tick", "renew", "resume", "bytes", "longest"):
            assert row.figures[name] is not None, name
    equal, _ = ledger.measure(Context(Case("fairness"), sizes, tmp_path / "fairness"))
    assert equal.figures["newcomer"] is not None


def test_bars_and_references_name_rows_and_metrics_that_are_measured() -> None:
    for workload in WORKLOADS.values():
        for sizes in (workload.sizes, workload.quick):
            names = {metric.name for metric in workload.metrics}
            systems = {case.system or case.name for case in workload.cases(sizes)}
            for bar in workload.bars(sizes):
                assert bar.metric in names, (workload.name, bar)
                assert any(bar.row.startswith(system) for system in systems), (workload.name, bar)


def test_a_batch_survives_the_way_to_the_producer() -> None:
    batch = Batch(4, first=10, models=2, prefix="p", ms=1.5, org="X")
    assert Batch(**json.loads(json.dumps(vars(batch)))) == batch
    assert [batch.model(number) for number in batch.numbers] == ["p0", "p1", "p0", "p1"]


def test_the_command_line_lists_what_there_is() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in (*WORKLOADS, *SYSTEMS))
    shown = CliRunner().invoke(peers, ["--help"])
    assert shown.exit_code == 0
    # Click breaks lines, at hyphens too.
    output = "".join(shown.output.split())
    assert all(name in output for name in (*compared(), *SYSTEMS, *PEERS))


def test_every_peer_is_compared_and_has_its_file() -> None:
    workloads = compared(blocked=50_000)
    named = {
        workload.name: {case.system for case in workload.cases(sizes)}
        for workload in workloads.values()
        for sizes in (workload.sizes, workload.quick)
    }
    assert {name for found in named.values() for name in found} <= {*SYSTEMS, *PEERS}
    assert named["contended"] >= {*PEERS}
    for peer in PEERS.values():
        assert (PEERS_FOLDER / peer.file).is_file()
        # What has no lock promises none, or its overlaps would be called violations.
        assert peer.locked == (peer.environment["BENCH_LOCK"] != "0")
    backlog = workloads["backlog"]
    most = {case.system: case.values["blocked"] for case in backlog.cases(backlog.sizes)}
    assert (most["coordinated"], most["huey-lock"]) == (50_000, 10_000)


def test_a_peer_that_is_not_installed_is_reported_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.PYTHON", Path("nowhere/bin/python"))
    told: list[str] = []
    workload = compared()["contended"]
    result = run_workload(workload, workload.quick, 2, told.append, ("rq-limit",))
    assert result.failures == [
        "rq-limit: rq-limit cannot be started: not installed (rq); make peers does it"
    ]
    assert result.failures[0] in section(result)
    assert len(told) == 1


def test_cases_that_wait_are_measured_at_once_and_told_in_their_order() -> None:
    all_here = threading.Barrier(3)

    def measure(context: Context) -> list[Row]:
        # Broken, and the test with it, unless all three are here at the same time.
        all_here.wait(30)
        return [Row(context.case.name, {"speed": 1.0})]

    workload = Workload(
        "demo",
        "Demo",
        "",
        lambda _: [Case(name) for name in "abc"],
        (Metric("speed", "speed"),),
        measure,
        {},
        {},
        together=True,
    )
    told: list[str] = []
    result = run_workload(workload, {}, 2, told.append)
    assert [line.split()[2].rstrip(":") for line in told] == [*"abcabc"]
    assert result.rows == [*"abc"]


def test_a_limit_that_is_reached_says_so() -> None:
    with pytest.raises(LimitReached, match=r"the moon: not within 0\.01 s"):
        until(lambda: False, 0.01, "the moon")

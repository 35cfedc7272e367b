"""The release check: every feature is mapped to tests that there are, and what became of them is read rightly."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import coordinator
from tests.chaos.drills import DRILLS
from tests.helpers import ROOT
from tests.release.__main__ import OTHER_PYTHONS
from tests.release.features import (
    FAILED,
    NOT_RUN,
    PASSED,
    SKIPPED,
    Feature,
    Test,
    features,
    outcomes,
)

#: How many features each letter has.
COUNTS = {"L": 9, "Q": 7, "R": 7, "P": 2, "F": 4, "B": 2, "H": 6, "S": 4, "I": 8, "W": 3}


def test_every_feature_is_there_once_and_in_order() -> None:
    wanted = [
        f"{letter}{number + 1}" for letter, count in COUNTS.items() for number in range(count)
    ]
    assert [one.id for one in features()] == wanted
    assert all(one.title and one.tests for one in features())


@pytest.mark.parametrize("feature", features(), ids=lambda one: one.id)
def test_the_tests_of_a_feature_exist(feature: Feature) -> None:
    assert [str(test) for test in feature.tests if not test.exists] == []
    cases = {test.case for test in feature.tests if test.name == "test_drill"}
    assert cases <= {"", *DRILLS}
    assert all(not test.case for test in feature.tests if test.name != "test_drill")


def test_a_feature_is_as_good_as_its_worst_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.test_store.TestSqlite" name="test_tokens[a]"/>
        <testcase classname="tests.test_store.TestSqlite" name="test_tokens[b]"><failure/></testcase>
        <testcase classname="tests.test_store" name="test_tokens[c]"/>
        <testcase classname="tests.test_secret" name="test_none"><skipped/></testcase>
        <testcase classname="tests.chaos.test_chaos" name="test_drill[flushall]"/>
        <testcase classname="tests.chaos.test_chaos" name="test_drill[storm]"><skipped/></testcase>
        </testsuite></testsuites>"""
    )
    store, secret = (
        Test("tests/test_store.py", "test_tokens"),
        Test("tests/test_secret.py", "test_none"),
    )
    drills = Test("tests/chaos/test_chaos.py", "test_drill")
    drill, unknown = replace(drills, case="flushall"), Test("tests/test_x.py", "test_x")
    found = outcomes([report])
    assert {test: became for test, became in found.items() if test.path == store.path} == {
        store: FAILED,
        replace(store, case="a"): PASSED,
        replace(store, case="b"): FAILED,
        replace(store, case="c"): PASSED,
    }
    assert (found[secret], found[drill], found[drills]) == (SKIPPED, PASSED, SKIPPED)
    assert (str(drill), str(drills)) == (
        f"{drills}[flushall]",
        "tests/chaos/test_chaos.py::test_drill",
    )
    assert Feature("X1", "", (drill,)).outcome(found) == PASSED
    assert Feature("X1", "", (drill, secret)).outcome(found) == SKIPPED
    assert Feature("X1", "", (drill, secret, unknown)).outcome(found) == NOT_RUN
    assert Feature("X1", "", (drill, store, unknown)).outcome(found) == FAILED
    assert Feature("X1", "", ()).outcome(found) == NOT_RUN
    assert not unknown.exists
    assert drill.exists


def test_the_version_is_one_and_the_changelogs_newest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\] - (\S+)$", changelog, re.MULTILINE)
    versions = [tuple(map(int, version.split("."))) for version, _ in headings]
    assert coordinator.__version__ == project["version"] == headings[0][0]
    assert all(len(version) == 3 for version in versions)
    assert versions == sorted(set(versions), reverse=True)
    # Only what is being worked on has no date.
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in headings[1:])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", headings[0][1])


def test_the_promised_pythons_are_the_ones_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [one.rpartition(" :: ")[2] for one in project["project"]["classifiers"]]
    pythons = [one for one in named if re.fullmatch(r"3\.\d+", one)]
    assert pythons == ["3.11", "3.12", "3.13"]
    assert [f"python{one}" for one in pythons[1:]] == [*OTHER_PYTHONS]
    assert project["project"]["requires-python"] == f">={pythons[0]}"
    assert project["tool"]["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_lock_has_all_that_a_newer_python_needs(version: str) -> None:
    """Without its interpreter: every dependency that is meant for it is locked for it too."""
    environment = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line.rstrip(" \\")) for line in lines if "==" in line]
    there = {
        pin.name: pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)
    }
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate(environment):
            continue
        pin = there[canonicalize_name(wanted.name)]
        (pinned,) = pin.specifier
        assert wanted.specifier.contains(pinned.version), text

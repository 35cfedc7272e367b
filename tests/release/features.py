"""Features by id, the tests that show each, and what became of these by pytest's reports."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

FEATURES = Path(__file__).with_name("features.toml")

PASSED, SKIPPED, FAILED, NOT_RUN = "passed", "SKIPPED", "FAILED", "NOT RUN"
#: The worst outcome of a feature's tests is the feature's.
_WORST = (FAILED, NOT_RUN, SKIPPED, PASSED)


@dataclass(frozen=True)
class Test:
    """A test function with all its classes, and all its parameters or one.

    Attributes:
        path: of its file, below the repository.
        name: of the function.
        case: the id of its parameters, empty for all.
    """

    __test__ = False

    path: str
    name: str
    case: str = ""

    def __str__(self) -> str:
        return f"{self.path}::{self.name}{self.case and f'[{self.case}]'}"

    @property
    def exists(self) -> bool:
        file = ROOT / self.path
        return file.is_file() and bool(
            re.search(rf"^ *(async )?def {self.name}\(", file.read_text(), re.MULTILINE)
        )


@dataclass(frozen=True)
class Feature:
    """A feature: its id, a title, and what shows it."""

    id: str
    title: str
    tests: tuple[Test, ...]

    def outcome(self, outcomes: Mapping[Test, str]) -> str:
        found = {outcomes.get(test, NOT_RUN) for test in self.tests}
        return min(found, key=_WORST.index, default=NOT_RUN)


def _test(short: str) -> Test:
    where, _, name = short.partition("::")
    folder, _, file = where.rpartition("/")
    path = Path("tests", folder, f"test_{file}.py")
    name, _, case = name.partition("[")
    return Test(str(path), f"test_{name}", case.removesuffix("]"))


def features() -> list[Feature]:
    """Return all features in the order of their file."""
    found = tomllib.loads(FEATURES.read_text())
    return [
        Feature(key, entry["title"], tuple(map(_test, entry["tests"])))
        for key, entry in found.items()
    ]


def outcomes(reports: Collection[Path]) -> dict[Test, str]:
    """Return what became of each test function, and of each of its cases, by JUnit reports.

    A function of which a case failed has failed; so has one that failed in any of the reports.
    """
    found: dict[Test, str] = {}
    for report in reports:
        # Written a moment ago by our own pytest.
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own file
            words = case.get("classname", "").split(".")
            file = [
                word
                for number, word in enumerate(words)
                if (ROOT / _path(words[: number + 1])).is_file()
            ]
            if not file:
                continue
            path = _path(words[: words.index(file[0]) + 1])
            name, _, parameters = case.get("name", "").partition("[")
            tags = {child.tag for child in case}
            now = (
                FAILED if tags & {"failure", "error"} else SKIPPED if "skipped" in tags else PASSED
            )
            for test in {Test(path, name), Test(path, name, parameters.removesuffix("]"))}:
                found[test] = min(found.get(test, PASSED), now, key=_WORST.index)
    return found


def _path(words: Collection[str]) -> str:
    return "/".join(words) + ".py"

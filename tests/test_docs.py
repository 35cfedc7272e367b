"""Every block of code in the README and in docs/ runs, or says why not and is checked; every link leads somewhere."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml

import coordinator
from docs.generate import python
from tests.doc_blocks import MARKS, Block, blocks_of, check_command, commands_in
from tests.helpers import ROOT, eventually, running
from tests.runbook_site import Step

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

#: Pages whose blocks are run here, from top to bottom, in a folder and on a Redis of their own.
RUN = (
    "README.md",
    "docs/tutorial.md",
    "docs/adoption.md",
    "docs/guarantees.md",
    "docs/performance.md",
    "docs/recipes.md",
)

#: Pages whose blocks are run elsewhere, or describe machines that tests do not have; all are checked here.
ELSEWHERE = {
    "CONTRIBUTING.md": ".ci/run carries its commands out",
    "docs/api.md": "made from the code, tests/test_web.py",
    "docs/cli.md": "made from the code, tests/test_cli_reference.py",
    "docs/console.md": "asks for a password: tests/test_web_access.py creates users",
    "docs/deployment.md": "of machines that tests do not have; tests/test_deploy_*.py",
    "docs/flower.md": "tests/test_flower.py",
    "docs/internals.md": "tests/test_states.py compares the chart",
    "docs/metrics.md": "tests/test_metrics.py, tests/test_deploy_monitoring.py",
    "docs/testing.md": "tests/test_testing.py runs examples/testing",
    "docs/threat-model.md": "a chart",
    "docs/workflows.md": "tests/test_workflows_docs.py",
    "examples/django_project/README.md": "tests/test_examples.py",
    "examples/file_processing/README.md": "tests/test_file_example.py",
    "examples/flask_app/README.md": "tests/test_examples.py",
}
_RUNBOOKS = {
    f"docs/runbooks/{page.name}": "tests/test_runbooks.py"
    for page in (ROOT / "docs" / "runbooks").glob("*.md")
}

PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
)
BLOCKS = [block for page in PAGES for block in blocks_of(ROOT / page, page)]

#: Fences without code.
PLAIN = ("text", "mermaid", "promql", "nginx")


def test_every_block_is_of_a_known_kind_and_every_page_is_run_somewhere() -> None:
    known = {*PLAIN, "python", "sh", "toml", "json", "yaml"}
    wrong = [block.page for block in BLOCKS if block.language not in known]
    wrong += [block.page for block in BLOCKS if block.mark not in ("", *MARKS)]
    wrong += [block.page for block in BLOCKS if block.mark == "not run" and not block.about]
    assert not wrong
    with_blocks = {block.page.partition(":")[0] for block in BLOCKS}
    told = {*RUN, *ELSEWHERE, *_RUNBOOKS}
    assert with_blocks <= told, f"blocks that nobody runs: {with_blocks - told}"
    fences = sum((ROOT / page).read_text().count("\n```") for page in PAGES)
    assert fences == 2 * len(BLOCKS), "a block that is not seen"


@pytest.mark.parametrize("page", PAGES)
def test_what_can_be_checked_without_running_it_is_right(page: str) -> None:
    for block in BLOCKS:
        if block.page.partition(":")[0] == page:
            _check(block)


def _check(block: Block) -> None:
    try:
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language in ("sh", "text"):
            for words in commands_in(block):
                check_command(words)
    except (SyntaxError, ValueError, yaml.YAMLError, click.UsageError) as error:
        pytest.fail(f"{block.page}: {error}")
    if block.language == "sh":
        done = subprocess.run(
            ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.page}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for found in re.findall(r"`(coordinator [a-z][^`]*)`", text):
        words = shlex.split(found)
        try:
            check_command(words)
        except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
            # A verb is named, not called.
            pass
        except click.UsageError as error:
            pytest.fail(f"{page}: {found}: {error.format_message()}")


class Page:
    """A page that is carried out from top to bottom."""

    def __init__(self, name: str, installation: Installation) -> None:
        self.blocks = list(blocks_of(ROOT / name, name))
        self.folder = installation.folder
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}",
            "CELERY_BROKER_URL": installation.broker,
            "CELERY_RESULT_BACKEND": installation.broker,
            "COORDINATOR_DATA_DIR": str(self.folder / ".coordinator"),
            "C_FORCE_ROOT": "1",
        }
        self.shown = ""
        self._logs = (self.folder / f"background{number}.log" for number in itertools.count())

    def carry_out(self) -> None:
        with contextlib.ExitStack() as background:
            for block in self.blocks:
                if block.mark == "background":
                    background.close()
                    background.enter_context(self._going_on(block))
                elif block.mark != "not run":
                    self._carry_out(block)

    def _carry_out(self, block: Block) -> None:
        env = dict(self.env)
        if block.mark == "env":
            env |= dict(word.split("=", 1) for word in block.about.split())
        if block.mark == "file":
            (self.folder / block.about).write_text(block.text)
        elif block.mark == "shown":
            self._compare(block, self.shown)
        elif block.mark == "run":
            self._compare(block, self._run(block, [sys.executable, block.about], env))
        elif block.mark == "export":
            words = [words[1:] for words in commands_in(block)]
            self.env |= dict(word.split("=", 1) for line in words for word in line)
        elif block.language == "python":
            self.shown = self._run(block, [sys.executable, "-c", block.text], env)
        elif block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            self.shown = self._run(block, command, env)

    def _run(self, block: Block, command: list[str], env: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{block.page}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _compare(self, block: Block, shown: str) -> None:
        Step(block.page, tuple(block.text.splitlines())).check(shown)

    @contextlib.contextmanager
    def _going_on(self, block: Block) -> Iterator[None]:
        log = next(self._logs)
        command = ("bash", "-c", block.text)
        with running(*command, env=self.env, cwd=self.folder, log=log, grace=0) as process:

            def told() -> bool:
                assert process.poll() is None, log.read_text()
                return block.about in log.read_text()

            eventually(told, timeout=90)
            yield


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", RUN)
def test_what_a_page_shows_works(name: str, alone: Installation) -> None:
    Page(name, alone).carry_out()


def test_the_reference_of_python_is_what_the_code_says() -> None:
    assert python.PAGE.read_text() == python.reference(), "write it anew: make docs"
    documented = python.reference()
    for name in coordinator.__all__:
        assert name == "WorkQueue" or f"### `{name}" in documented, name
    for cls in (coordinator.WorkQueue, *(cls for _, cls in python.HELD.values())):
        for name in python.methods(cls):
            assert inspect.getdoc(getattr(cls, name)), name


def anchors(page: Path) -> set[str]:
    """Return what links to a page may name after ``#``, as the usual renderers make it from headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"(?:https?|mailto):", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{page}: {target}"
        assert found.is_relative_to(ROOT), f"{page}: {target} leaves the repository"
        if anchor:
            assert anchor in anchors(found), f"{page}: {target}"


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#\s]+)", index))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= linked, f"not in docs/README.md: {pages - linked}"

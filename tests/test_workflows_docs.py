"""The page about workflows does what it says, and the shipped ones are sound."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.workflows.files import read_workflows
from tests.helpers import ROOT, eventually, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

PAGE = (ROOT / "docs" / "workflows.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def shop(alone: Installation) -> Iterator[dict[str, str]]:
    """The page's app with a worker; the environment of its commands."""
    folder = alone.folder
    (folder / "shop.py").write_text(blocks("python")[0])
    (folder / "refit.toml").write_text(blocks("toml")[0])
    env = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "COORDINATOR_REDIS_URL": alone.broker,
        "COORDINATOR_DATA_DIR": str(folder),
        "COORDINATOR_WORKFLOWS": str(folder / "refit.toml"),
        "COORDINATOR_APP": "shop",
        "C_FORCE_ROOT": "1",
    }
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "2", "-l", "INFO"]
    log = folder / "worker.log"
    with running(*command, env=env, cwd=folder, log=log, grace=0):
        eventually(lambda: " ready." in log.read_text(), timeout=60)
        yield env


def run(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command,
        env=env,
        cwd=env["COORDINATOR_DATA_DIR"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_page_shows_works(shop: dict[str, str]) -> None:
    commands = [line.strip() for line in blocks("sh")[0].splitlines() if line.strip()]
    shown = [
        run(shop, "bash", "-c", line.replace("coordinator", f"{sys.executable} -m coordinator", 1))
        for line in commands
    ]
    assert "collect > fit > compare" in shown[0]
    assert "refit" in shown[0]
    using, canvas = blocks("python")[1:]
    told = run(shop, sys.executable, "-c", f"import shop\n{using}")
    assert told.splitlines()[0] == "['refit', 'release']"
    assert "small learned from 2 rows of data" in run(shop, sys.executable, "-c", canvas)
    listing = (sys.executable, "-m", "coordinator", "workflows", "executions", "--json")

    def completed() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(run(shop, *listing))["executions"]
        assert [one["status"] for one in found] == ["COMPLETED"] * 2, found
        return found

    (one, _) = eventually(completed, timeout=60, interval=0.5)
    shown_one = json.loads(run(shop, *listing, str(one["execution_id"])))
    assert shown_one["details"][2]["result"] == (
        "['ranker learned from 700 rows of data/ranker', 'ranker', 'ranker-live']"
    )
    inputs = '{"model": "m", "path": "x"}'
    command = (sys.executable, "-m", "coordinator", "workflows", "execute", "refit")
    run(shop, *command, "--inputs", inputs)


def test_the_examples_are_sound() -> None:
    (league,) = read_workflows([str(ROOT / "examples" / "workflows")])
    assert [step.name for step in league.steps][-1] == "tournament"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_is_improved_by_real_games(alone: Installation, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COORDINATOR_REDIS_URL": alone.broker,
        "COORDINATOR_DATA_DIR": str(tmp_path),
        "COORDINATOR_WORKFLOWS": str(ROOT / "examples" / "workflows"),
        "C_FORCE_ROOT": "1",
    }
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1", "-l", "INFO"]
    log = tmp_path / "worker.log"
    cli = (sys.executable, "-m", "coordinator", "-A", "tasks", "workflows")
    with running(*command, env=env, cwd=ROOT, log=log, grace=0):
        eventually(lambda: " ready." in log.read_text(), timeout=60)
        plan = run(
            env | {"COORDINATOR_APP": "tasks"},
            *cli,
            "execute",
            "league",
            "--dry-run",
            "--json",
            "--inputs",
            '{"one": "connect-four", "two": "connect-four-small"}',
        )
        assert json.loads(plan)["plan"]["steps"][4]["models"] == [
            "connect-four",
            "connect-four-small",
        ]
        begun = json.loads(
            run(env, *cli, "execute", "improve", "--json", "--inputs", '{"model": "tic-tac-toe"}')
        )

        def over() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(
                run(env, *cli, "executions", begun["execution_id"], "--json")
            )
            assert found["status"] in ("COMPLETED", "FAILED", "UNPROCESSABLE"), found
            return found

        done = eventually(over, timeout=400, interval=2)
    assert [step["status"] for step in done["details"]] == ["COMPLETED"] * 3, done
    assert "'candidate': 1" in done["details"][2]["result"]

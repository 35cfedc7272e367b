"""Workflows over HTTP, on the command line, and in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from coordinator import InvalidValue, Step, Workflow, register_workflow
from coordinator.cli import main
from coordinator.errors import UnknownJob
from coordinator.workflows.files import read_workflows

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.web_site import Site
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

TOML = """
name = "improve"
description = "play, then learn"
required = ["model"]
hold_timeout = 60

[defaults]
games = 20

[[steps]]
name = "selfplay"
task = "play"
models = "{model}"
args = [["give", "{games}"]]

[[steps]]
name = "learn"
task = "play"
models = ["{model}", "shared-{model}"]
args = [["give", "{selfplay}"]]
max_retries = 1
"""


@pytest.fixture(autouse=True)
def defined(alone: Installation) -> None:
    folder = alone.folder / "workflows"
    folder.mkdir()
    (folder / "improve.toml").write_text(TOML)
    (folder / "notes.txt").write_text("left alone")
    alone.conf["coordinator_workflows"] = [str(folder)]
    steps = [Step("only", "play", models="m", args=[["give", 1]])]
    register_workflow(alone.app, Workflow("single", steps))


@pytest.fixture
def call(desk: Desk) -> Iterator[Callable[..., Result]]:
    """Call a command of the test's app."""
    module = ModuleType("workflows_app")
    module.app = desk.installation.app  # type: ignore[attr-defined]  # a module made here
    sys.modules["workflows_app"] = module

    def run(*arguments: str, code: int = 0) -> Result:
        shown = CliRunner().invoke(main, ("-A", "workflows_app", "workflows", *arguments))
        assert shown.exit_code == code, shown.output + repr(shown.exception)
        return shown

    yield run
    del sys.modules["workflows_app"]


def test_workflows_over_http(site: Site) -> None:
    found = site.get("/workflows")["workflows"]
    assert [workflow["name"] for workflow in found] == ["improve", "single"]
    assert found[0]["steps"][1]["models"] == ["{model}", "shared-{model}"]
    blocker = site.desk.send("shared-m")
    begun = site.post(
        "/workflows/improve/execute", {"inputs": {"model": "m"}, "reason": "nightly"}, 202
    )
    reason = f"Model conflict: shared-m in use by normal job {blocker}"
    assert begun["conflict_reason"] == reason
    assert begun["blocked_by_job_id"] == blocker
    assert begun["required_models"] == ["m", "shared-m"]
    assert (begun["current_step"], begun["current_step_model"]) == ("selfplay", "m")
    assert begun["requested_by"].startswith("token:a-operator@")
    path = f"/workflows/executions/{begun['execution_id']}"
    shown = site.get(path)
    assert [step["status"] for step in shown["details"]] == ["PENDING", None]
    assert shown["inputs"] == {"games": 20, "model": "m"}
    assert site.get("/workflows/executions", status="PENDING")["executions"] != []
    assert site.get(f"/jobs/{begun['current_job_id']}/why")["reason"] == reason
    site.post(f"{path}/cancel", {"reason": "enough"})
    assert site.get(path)["status"] == "CANCELED"
    assert site.ask("POST", f"{path}/cancel", "operator").status_code == 409


def test_a_key_makes_one_execution(site: Site) -> None:
    headers = {"Idempotency-Key": "mine"}
    first, second = (
        site.post("/workflows/single/execute", {}, 202, headers=headers) for _ in range(2)
    )
    assert first["execution_id"] == second["execution_id"]
    assert len(site.get("/workflows/executions")["executions"]) == 1


def test_wrong_requests_are_refused(site: Site) -> None:
    def refused(path: str, body: Any, status: int) -> str:
        return str(site.post(path, body, status)["detail"])

    assert "did you mean 'improve'" in refused("/workflows/improv/execute", {}, 404)
    assert "inputs.model" in refused("/workflows/improve/execute", {}, 422)
    wrong = {"inputs": {"modle": "m"}}
    assert "did you mean 'model'" in refused("/workflows/improve/execute", wrong, 422)
    assert site.ask("GET", "/workflows/executions/workflow-no", "viewer").status_code == 404
    assert site.ask("POST", "/workflows/single/execute", "viewer").status_code == 403
    assert site.ask("GET", "/workflows", "").status_code == 401


def said_of(shown: Result) -> tuple[list[str], str | None]:
    """Return the ids of a page of executions, and where the next one begins."""
    page = json.loads(shown.stdout)
    return [one["execution_id"] for one in page["executions"]], page["cursor"]


def test_workflows_on_the_command_line(desk: Desk, call: Callable[..., Result]) -> None:
    assert "selfplay > learn" in call().stdout
    assert [one["name"] for one in json.loads(call("list", "--json").stdout)] == [
        "improve",
        "single",
    ]
    shown = call("show", "improve").stdout
    assert "for 60 s when the next step cannot begin" in shown
    assert "['give', '{selfplay}']" in shown
    inputs = '{"model": "m"}'
    plan = json.loads(call("execute", "improve", "--inputs", inputs, "--dry-run", "--json").stdout)
    assert plan["plan"]["steps"][1]["models"] == ["m", "shared-m"]
    assert call("executions").stdout == "no executions\n"
    begun = json.loads(call("execute", "improve", "--inputs", inputs, "--json").stdout)
    own = begun["execution_id"]
    assert desk.ledger.holders("model:shared-m") == {own}
    assert "selfplay (1 of 2)" in call("executions").stdout
    assert f"{own}.learn" in call("executions", own).stdout
    assert said_of(call("executions", "--json")) == ([own], None)
    other = json.loads(call("execute", "single", "--json").stdout)["execution_id"]
    ((last,), cursor) = said_of(call("executions", "-n", "1", "--json"))
    assert last == other
    assert cursor is not None
    assert said_of(call("executions", "-n", "2", "--cursor", cursor, "--json")) == ([own], None)
    assert f"more: --cursor {cursor}" in call("executions", "-n", "1").stderr
    call("cancel", other)
    with pytest.raises(UnknownJob, match=f"coordinator workflows executions {own}"):
        desk.queue.why(own)
    with pytest.raises(UnknownJob, match="is an execution of a workflow"):
        desk.queue.cancel_job(own)
    assert call("cancel", own, "--reason", "enough", "--by", "ann").stdout == f"{own}: canceled\n"
    assert desk.ledger.holders("model:shared-m") == set()
    assert "has ended: it is CANCELED" in call("cancel", own, code=1).output
    assert "did you mean 'single'" in call("execute", "singel", code=1).output
    assert "inputs.model" in call("execute", "improve", code=2).output
    assert "one of PENDING" in call("executions", "--status", "done", code=2).output


def test_sql_shows_executions(desk: Desk) -> None:
    begun = desk.queue.execute_workflow("improve", {"model": "m"})
    desk.record()
    with desk.queue.store.reading() as connection:
        (row,) = connection.exec_driver_sql("SELECT * FROM workflow_executions").mappings()
    assert (row["status"], row["state"]) == ("PENDING", "dispatched")
    assert (row["current_step"], row["current_step_model"]) == ("selfplay", "m")
    assert json.loads(row["required_models"]) == ["m", "shared-m"]
    assert row["execution_id"] == begun.execution_id


def test_executions_outlive_their_jobs_and_then_go(desk: Desk) -> None:
    """What a purge or the retention takes are jobs; what became of the execution stays as long as any job."""
    queue = desk.queue
    begun = queue.execute_workflow("single")
    desk.end(begun.current_job_id, "failed", "as told")
    desk.record()
    assert queue.purge_failed_jobs(0).done == 1
    left = queue.get_execution(begun.execution_id)
    assert (left.status, left.error) == ("FAILED", "as told")
    queue.prune(log_days=7, finished_days=0)
    assert queue.get_executions() == []


def test_an_execution_without_its_next_step_fails(desk: Desk, monkeypatch: Any) -> None:
    """The end of a step reached the database and the next step did not, when Redis was lost."""
    queue = desk.queue
    begun = queue.execute_workflow("improve", {"model": "m"})
    desk.end(begun.current_job_id)
    desk.record()
    assert queue.get_execution(begun.execution_id).status == "PROCESSING"
    assert queue.end_stranded_executions() == []
    monkeypatch.setattr("coordinator.operations.executions.STRANDED_MS", -1000)
    assert queue.end_stranded_executions() == [begun.execution_id]
    found = queue.get_execution(begun.execution_id)
    assert (found.status, found.error) == (
        "FAILED",
        f"its next step {begun.execution_id}.learn was lost",
    )
    assert queue.end_stranded_executions() == []


def test_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    def refused(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidValue) as caught:
            read_workflows([str(tmp_path / name)])
        return str(caught.value)

    assert "bad.toml, file: 'bad.toml' is not allowed: TOML:" in refused("bad.toml", "name = ")
    assert "bad.json, file: 'bad.json' is not allowed: JSON:" in refused("bad.json", "{")
    assert "steps[0].field: 'tsk'" in refused("a.toml", 'name="a"\n[[steps]]\nname="b"\ntsk="c"')
    assert "did you mean 'task'?" in refused("a.toml", 'name="a"\n[[steps]]\nname="b"\ntsk="c"')
    assert "steps[0].task: None is not allowed: given" in refused(
        "a.json", '{"name": "a", "steps": [{"name": "b"}]}'
    )
    assert "steps: () is not allowed" in refused("a.json", '{"name": "a", "steps": []}')
    assert "ends in .json or .toml" in refused("a.yaml", "")
    one = tmp_path / "folder"
    one.mkdir()
    for name in ("a.json", "b.json"):
        (one / name).write_text('{"name": "a", "steps": [{"name": "b", "task": "c"}]}')
    with pytest.raises(InvalidValue, match="a name that no other workflow has"):
        read_workflows([str(one)])
    with pytest.raises(InvalidValue, match="No such file"):
        read_workflows([str(tmp_path / "none.json")])

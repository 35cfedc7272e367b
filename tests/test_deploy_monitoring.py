"""What is deployed beside it for monitoring: alert rules, Prometheus's configuration, Grafana's dashboards."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.metrics import METRICS
from coordinator.metrics.definitions import HISTOGRAM
from tests.dashboards import BOARDS, COLUMNS, FOLDER, SOURCE, files
from tests.helpers import ROOT
from tests.test_metrics import promtool

PROMETHEUS = ROOT / "deploy" / "prometheus"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
RULES = PROMETHEUS / "coordinator.rules.yml"

#: Metrics that Prometheus makes itself.
OWN = {"up"}

#: What a series of a histogram may end in.
PARTS = ("_bucket", "_count", "_sum")

KINDS = {"row", "timeseries", "stat", "table", "bargauge"}


def check(*arguments: object, cwd: Path = PROMETHEUS) -> None:
    done = subprocess.run(
        [promtool(), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def names(expression: str) -> set[str]:
    """Return the metrics of an expression: names before a brace, a bracket, an operator or the end."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    found = re.findall(r"\b([a-z_]+)\b(?!\s*\()", re.sub(r"\[[^\]]*\]", "", bare))
    return set(found) - {"and", "or", "unless", "bool", "offset"}


def known(name: str) -> bool:
    if name in OWN or name in METRICS:
        return name in OWN or METRICS[name].kind != HISTOGRAM
    base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), "")
    return base in METRICS and METRICS[base].kind == HISTOGRAM


def test_names_are_found_in_expressions() -> None:
    text = 'sum by (queue, le) (rate(queue_x_bucket{queue=~"a|b"}[5m])) / on(queue) group_left() b > 1 and on() up'
    assert names(text) == {"queue_x_bucket", "b", "up"}


def test_the_rules_are_right_and_their_unit_tests_pass() -> None:
    check("check", "rules", RULES.name)
    check("test", "rules", "coordinator.rules.test.yml")


def test_every_rule_is_tested_explained_and_has_a_runbook() -> None:
    tests = yaml.safe_load((PROMETHEUS / "coordinator.rules.test.yml").read_text())["tests"]
    raised = {
        one["alertname"]
        for case in tests
        for one in case["alert_rule_test"]
        if one.get("exp_alerts")
    }
    page = (ROOT / "docs" / "alerts.md").read_text()
    headings = {line[3:].lower() for line in page.splitlines() if line.startswith("## ")}
    for rule in rules():
        name = rule["alert"]
        assert name in raised, f"no unit test raises {name}"
        assert name in page, f"docs/alerts.md does not tell of {name}"
        assert rule["labels"]["severity"] in ("warning", "critical")
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / path).is_file(), f"{name}: {path}"
        assert not anchor or anchor in headings, f"{name}: {anchor}"


def test_every_runbook_is_linked_by_an_alert() -> None:
    linked = {Path(rule["annotations"]["runbook"]).stem for rule in rules()}
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages <= linked


def test_rules_and_dashboards_use_metrics_that_there_are() -> None:
    used = [(rule["alert"], rule["expr"]) for rule in rules()]
    for path in FOLDER.glob("*.json"):
        used += [(path.name, one) for one in expressions(json.loads(path.read_text()))]
    assert len(used) > 60
    for place, expression in used:
        unknown = [name for name in names(expression) if not known(name)]
        assert not unknown, f"{place}: {unknown} in {expression}"


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    token = tmp_path / "token"
    token.write_text("secret")
    (tmp_path / "coordinator.rules.yml").write_text(RULES.read_text())
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/metrics_token", str(token)))
    check("check", "config", "prometheus.yml", cwd=tmp_path)


def test_dashboards_are_as_their_descriptions_say() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == files(), (
        "python -m tests.dashboards"
    )
    assert {"queues-overview", "queue-details", "queue-org-stats"} <= {one.uid for one in BOARDS}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_is_well_formed(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"])
    assert board["title"]
    assert board["schemaVersion"] >= 36
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert set(place) == {"h", "w", "x", "y"}
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["type"] in KINDS
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["datasource"] == SOURCE
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))
        for target in panel["targets"]:
            assert target["datasource"] == SOURCE
    variables = {one["name"] for one in board["templating"]["list"]}
    asked = set(re.findall(r"\$(\w+)", " ".join(expressions(board)))) - {"__rate_interval"}
    assert asked == variables
    for one in board["templating"]["list"]:
        assert one["datasource"] == SOURCE
        asks = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["definition"])
        assert asks is not None
        assert asks[2] in METRICS[asks[1]].labels


def test_every_expression_of_the_dashboards_is_one_for_prometheus(tmp_path: Path) -> None:
    rows = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(
            one
            for path in sorted(FOLDER.glob("*.json"))
            for one in expressions(json.loads(path.read_text()))
        )
    ]
    groups = {"groups": [{"name": "dashboards", "rules": rows}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups))
    check("check", "rules", "rules.yml", cwd=tmp_path)


def test_what_is_provisioned_fits_the_dashboards() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "coordinator.yml").read_text())[
        "datasources"
    ]
    assert {"type": source["type"], "uid": source["uid"]} == SOURCE
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "coordinator.yml").read_text())[
        "providers"
    ]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/etc/grafana/dashboards")

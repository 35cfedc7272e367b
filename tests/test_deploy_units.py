"""systemd units and Kubernetes manifests: their form, and that what they start is there."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from coordinator.cli import main
from tests.helpers import ROOT, program
from tests.test_deploy_compose import SERVICES
from tests.test_deploy_monitoring import known, names

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
MANIFESTS = ROOT / "deploy" / "kubernetes"
IMAGE = SERVICES["web"]["image"]


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = lambda option: option  # type: ignore[method-assign,assignment]  # names have capitals
    parser.read_string(path.read_text())
    return parser


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_what_there_is_as_an_ordinary_user_and_again(path: Path) -> None:
    parsed = unit(path)
    service = parsed["Service"]
    assert service["User"] not in ("", "root")
    assert service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "yes"
    program, *words = shlex.split(service["ExecStart"])
    assert program.startswith("/opt/coordinator/bin/")
    name = Path(program).name
    assert name in ("celery", "coordinator")
    assert words[:2] == ["-A", "tasks"]
    if name == "coordinator":
        assert CliRunner().invoke(main, [words[2], "--help"]).exit_code == 0
    else:
        assert words[2] in ("worker", "beat", "flower")
    assert parsed["Install"]["WantedBy"] == "multi-user.target"
    program_of_systemd = shutil.which("systemd-analyze")
    if program_of_systemd:
        done = subprocess.run(
            [program_of_systemd, "verify", "--man=no", path],
            capture_output=True,
            text=True,
            check=False,
        )
        own = [
            line
            for line in done.stderr.splitlines()
            # The program is not installed on the machine of the tests.
            if path.stem.rstrip("@") in line and "not executable" not in line
        ]
        assert own == []


def test_a_stopped_worker_has_time_and_leaves_nothing_behind() -> None:
    service = unit(ROOT / "deploy" / "systemd" / "coordinator-worker@.service")["Service"]
    assert service["KillMode"] == "mixed", "the main process is told, all are ended at last"
    assert int(service["TimeoutStopSec"]) >= 60
    given = dict(word.split("=", 1) for word in shlex.split(service["Environment"]))
    assert 30 <= int(given["COORDINATOR_SHUTDOWN_SECONDS"]) <= int(service["TimeoutStopSec"]) - 10


def test_every_pod_is_restricted_and_every_container_known() -> None:
    parts = {}
    for document in documents("coordinator.yaml"):
        if document["kind"] not in ("Deployment", "Job"):
            continue
        spec = document["spec"]["template"]["spec"]
        parts[document["metadata"]["name"]] = document
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        volumes = {one["name"] for one in spec["volumes"]}
        for container in spec["containers"]:
            assert container["image"] == IMAGE
            secure = container["securityContext"]
            assert secure["allowPrivilegeEscalation"] is False
            assert secure["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            assert {one["name"] for one in container["volumeMounts"]} <= volumes
            given = {one["name"]: one["value"] for one in container["env"]}
            assert given["COORDINATOR_REDIS_URL_FILE"].startswith("/secrets/")
            words = container.get("args") or container["command"][3:]
            assert words[0] in ("worker", "beat", "coordinator", "db")
    beat = parts["coordinator-beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]["type"]) == (1, "Recreate")
    assert parts["coordinator-maintenance"]["spec"]["replicas"] == 2
    for document in parts.values():
        if document["kind"] == "Deployment":
            wanted = document["spec"]["selector"]["matchLabels"].items()
            assert wanted <= document["spec"]["template"]["metadata"]["labels"].items()


def test_workers_are_scaled_by_metrics_that_there_are() -> None:
    (scaled,) = documents("keda.yaml")
    deployments = {one["metadata"]["name"] for one in documents("coordinator.yaml")}
    assert scaled["spec"]["scaleTargetRef"]["name"] in deployments
    (trigger,) = scaled["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    assert names(query)
    assert all(known(name) for name in names(query))


def test_a_proxy_that_follows_the_master_is_rightly_configured(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "redis" / "haproxy.cfg").read_text()
    assert "expect string role:master" in text
    assert "on-marked-down shutdown-sessions" in text
    haproxy = program("haproxy", package="haproxy", required="REQUIRE_DEPLOYMENT")
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"redis\d\.internal", "127.0.0.1", text))
    done = subprocess.run(
        [haproxy, "-c", "-f", config],
        env={"REDIS_PASSWORD": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

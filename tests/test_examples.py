"""The example projects of adoption, run as their pages say: a real worker, and the project's own requests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import ROOT, eventually, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

EXAMPLES = ROOT / "examples"


class Project:
    """An example in a folder of its own, on a Redis of its own."""

    def __init__(self, name: str, installation: Installation) -> None:
        self.folder, self.data = EXAMPLES / name, installation.folder
        self.env = {
            "REDIS_URL": installation.broker,
            "SHOP_DATA": str(self.data),
            "COORDINATOR_DATA_DIR": str(self.data / "coordinator"),
            "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "C_FORCE_ROOT": "1",
        }

    def run(self, *command: str) -> str:
        """Run a command of the project; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **self.env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def asked(self, code: str) -> Any:
        """Return what a piece of Python prints as JSON."""
        return json.loads(self.run("-c", code).splitlines()[-1])

    @contextlib.contextmanager
    def worker(self, app: str) -> Iterator[Path]:
        """Run a worker of the project; yields its log."""
        log = self.data / "worker.log"
        command = ["python", "-m", "celery", "-A", app, "worker", "-c", "2", "-l", "INFO"]
        with running(*command, env=self.env, cwd=self.folder, log=log, grace=0):
            eventually(lambda: " ready." in log.read_text(), timeout=60)
            yield log


DJANGO = """
import json, os
from tests.helpers import eventually
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.test import Client
from ranking.models import Order
from ranking.tasks import fulfil, train
ask = lambda path: Client().get(path).json()

def told(job, until):
    return eventually(lambda: until in str(found := ask(f"/jobs/{job}")) and found, 60)

first = ask("/train/ranker?seconds=3")["job_id"]
second = ask("/train/ranker")["job_id"]
waits = told(second, "Model conflict")
others = [ask("/train/catalogue")["job_id"] for _ in range(2)]
order = ask("/order/ranker")["order"]
ends = [told(job, "COMPLETED") for job in (first, second, *others)]
eventually(lambda: Order.objects.get(pk=order).trained, 60)
print(json.dumps({"waits": waits, "first": first, "ends": ends, "limit": train.app.coordination.settings.limits}))
"""

FLASK = """
import json
from tests.helpers import eventually
from app import flask_app, train
client = flask_app.test_client()

def told(job, until):
    return eventually(lambda: until in str(found := client.get(f"/jobs/{job}").json) and found, 60)

first = client.post("/train/ranker?customer=acme&seconds=3").json["job_id"]
second = client.post("/train/ranker?customer=umbrella").json["job_id"]
waits = told(second, "Model conflict")
ends = [told(job, "COMPLETED") for job in (first, second)]
text = train.AsyncResult(second).get(timeout=30)
print(json.dumps({"waits": waits, "first": first, "ends": ends, "text": text}))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_django_project_is_adopted_in_two_lines(alone: Installation) -> None:
    project = Project("django_project", alone)
    project.run("manage.py", "migrate", "--verbosity", "0")
    with project.worker("shop"):
        told = project.asked(DJANGO)
    assert told["waits"] == {
        "status": "PENDING",
        "reason": f"Model conflict: ranker in use by normal job {told['first']}",
    }
    assert {end["status"] for end in told["ends"]} == {"COMPLETED"}
    # CELERY_COORDINATOR_LIMITS: the settings have Django's prefix.
    assert told["limit"] == {"model:catalogue": 2}
    assert (alone.folder / "coordinator" / "coordinator.db").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_flask_app_is_adopted_in_two_lines(alone: Installation) -> None:
    project = Project("flask_app", alone)
    with project.worker("app.celery_app"):
        told = project.asked(FLASK)
    assert told["waits"]["reason"] == f"Model conflict: ranker in use by normal job {told['first']}"
    assert {end["status"] for end in told["ends"]} == {"COMPLETED"}
    assert told["text"] == "ranker: trained by Flask"


@pytest.mark.parametrize(
    ("name", "source"), [("django_project", "shop/celery.py"), ("flask_app", "app.py")]
)
def test_two_lines_are_all(name: str, source: str) -> None:
    text = (EXAMPLES / name / source).read_text()
    lines = [line for line in text.splitlines() if "coordinate" in line]
    assert lines[0].startswith("from coordinator import coordinate"), lines
    assert lines[1].startswith("coordinate("), lines
    assert len(lines) == 2

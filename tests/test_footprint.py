"""What a process that uses the coordinator loads: modules that it never needs cost every worker time and memory."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.installation import Installation
from benchmarks.processes import Program
from benchmarks.systems import SYSTEMS
from coordinator.running.sharing import keep_shared
from coordinator.store import Store
from tests.helpers import ROOT, eventually

#: Each takes megabytes or tenths of a second, and none is needed to send or to run jobs.
HEAVY = {
    "alembic",
    "argon2",
    "fastapi",
    "flower",
    "getpass",
    "jinja2",
    "mako",
    "prometheus_client",
    "psutil",
    "psycopg",
    "pydantic",
    "rich",
    "sqlalchemy",
    "supervisor",
    "tomllib",
    "tornado",
    "urllib.request",
    "uvicorn",
}


def loaded(code: str) -> set[str]:
    """Return the modules of a fresh interpreter after running ``code``."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(json.loads(shown))


def test_a_coordinated_app_loads_nothing_it_may_never_need() -> None:
    # Celery loads its transport when it connects, and redis-py a tracing library where there is one.
    code = """
import kombu.transport.redis
from celery import Celery
app = Celery("shop", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")
"""
    plain = loaded(code)
    coordinated = loaded(
        f"{code}from coordinator import coordinate\ncoordinate(app)\napp.finalize()"
    )
    assert "coordinator.running.worker" in coordinated
    assert (coordinated - plain) & HEAVY == set()


@pytest.mark.slow
def test_a_store_on_sqlite_that_is_up_to_date_loads_no_postgresql_and_no_migrations(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = Store(url)
    store.upgrade()
    store.close()
    found = loaded(
        f"from coordinator.store import Store\nstore = Store({url!r})\nstore.upgrade()\n"
        "store.enrol_worker('n/m/1/1', ['q'], 1, {}, 1)\nstore.conditions('alert')\nstore.close()"
    )
    assert "sqlalchemy.dialects.sqlite" in found
    assert not [
        name for name in found if name.startswith(("sqlalchemy.dialects.postgresql", "alembic"))
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_does_not_keep_the_database_that_it_enrolled_in(tmp_path: Path) -> None:
    def holds(process: Program) -> bool:
        return "sqlalchemy" in Path(f"/proc/{process.pid}/maps").read_text()

    with Installation(SYSTEMS["coordinated"], tmp_path, (1,)) as site:
        site.warm_up()
        with contextlib.closing(Store(site.store_url)) as store:

            def enrolled() -> bool:
                # The recorder notes workers too, and not what they run on.
                return any(
                    row.node.startswith("worker1") and "celery" in row.versions
                    for row in store.workers()
                )

            eventually(enrolled, 60)
        (worker,), (maintenance, _) = site.workers, site.helpers
        assert holds(maintenance), "or this looks in the wrong place"
        assert not holds(worker)


def test_what_is_shared_is_not_looked_at_by_the_collector() -> None:
    before = gc.get_freeze_count()
    try:
        keep_shared()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()

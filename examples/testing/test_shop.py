"""Tests of coordinated tasks, on a real Redis, a real database and a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shop import train

from coordinator.testing import LocalWorker, wait_for_status

if TYPE_CHECKING:
    from pytest_celery import CeleryTestSetup

    from coordinator.work_queue import WorkQueue


def runs(folder: Path, model: str) -> int:
    file = folder / model
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_jobs_of_one_model_run_and_are_recorded(
    celery_worker: LocalWorker, work_queue: WorkQueue, tmp_path: Path
) -> None:
    jobs = [train.delay("ranker", str(tmp_path)) for _ in range(3)]
    assert [job.get(timeout=30) for job in jobs] == ["ranker"] * 3
    for job in jobs:
        assert wait_for_status(work_queue, job.id, "COMPLETED").models == ("ranker",)
    assert runs(tmp_path, "ranker") == 3


def test_a_job_waits_without_a_worker_and_says_why(work_queue: WorkQueue, tmp_path: Path) -> None:
    first, second = (train.delay("ranker", str(tmp_path)).id for _ in range(2))
    assert work_queue.why(first).reason == "Queue celery has no live worker"
    assert work_queue.get_pending_count() == 2
    assert second != first


def test_each_test_begins_with_nothing(work_queue: WorkQueue) -> None:
    assert work_queue.get_pending_count() == 0
    assert work_queue.get_jobs() == []


def test_a_failure_is_retried_and_flagged(
    celery_worker: LocalWorker, work_queue: WorkQueue, tmp_path: Path
) -> None:
    job = train.delay("ranker", str(tmp_path), "fail")
    found = wait_for_status(work_queue, job.id, "UNPROCESSABLE")
    assert found.error is not None
    assert "no data" in found.error
    assert runs(tmp_path, "ranker") == 2


def test_a_killed_workers_job_runs_again(
    celery_worker: LocalWorker, work_queue: WorkQueue, tmp_path: Path
) -> None:
    job = train.delay("ranker", str(tmp_path), "die")
    celery_worker.container.wait()
    celery_worker.restart()
    assert wait_for_status(work_queue, job.id, "COMPLETED", timeout=60).losses == 1
    assert runs(tmp_path, "ranker") == 2


def test_the_nodes_are_pytest_celerys(celery_setup: CeleryTestSetup, tmp_path: Path) -> None:
    assert celery_setup.ready(ping=False, control=True, docker=False)
    worker: Any = celery_setup.worker
    assert worker.hostname() == "worker@test"
    worker.wait_for_log("ready.")
    names = {one["pid"] for one in worker.get_running_processes_info(["pid", "name"])}
    assert worker.container.pid in names
    assert len(names) >= 3, "the main process and two that run jobs"
    assert celery_setup.broker.config()["url"].startswith("redis://:")
    assert train.delay("ranker", str(tmp_path)).get(timeout=30) == "ranker"


def test_a_status_that_does_not_come_is_told(work_queue: WorkQueue, tmp_path: Path) -> None:
    job = train.delay("ranker", str(tmp_path))
    with pytest.raises(AssertionError, match="is PENDING waiting, not COMPLETED, after 0 s"):
        wait_for_status(work_queue, job.id, "COMPLETED", timeout=0)

"""Secrets in arguments: taken out of all that is stored to be shown, and given to the task as they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from coordinator import coordinate
from coordinator.errors import InvalidSetting
from coordinator.settings import load

RULE = r"password=(?P<secret>\w+)"


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update(
        coordinator_redis_url=redis_url,
        coordinator_database_url=f"sqlite:///{tmp_path}/shop.db",
        coordinator_data_dir=str(tmp_path),
        coordinator_redact=[RULE],
        coordinator_table_prefix="shop_",
        coordinator_sqlite_synchronous="FULL",
    )
    coordinate(app)

    @app.task(name="shop.log_in", shared=False)
    def log_in(words: str) -> str:
        return words

    yield app
    app.coordination.work_queue.store.close()
    app.close()


def test_what_is_shown_of_a_message_is_redacted_and_its_arguments_are_not(app: Celery) -> None:
    job_id = app.tasks["shop.log_in"].delay("password=hunter2").id
    store = app.coordination.work_queue.store
    row = store.job(job_id)
    assert row is not None
    assert row["args_repr"] == "('password=[redacted]',)"
    message = json.loads(row["message"] + "}}")
    assert message["headers"]["argsrepr"] == "('password=[redacted]',)"
    assert "hunter2" not in json.dumps(message["headers"])
    args, *_ = json.loads(base64.b64decode(message["body"]))
    assert args == ["password=hunter2"]
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        count = connection.exec_driver_sql("SELECT count(*) FROM shop_coordinator_jobs").scalar()
    assert count == 1


def test_settings_of_the_store_are_checked() -> None:
    found = load({"coordinator_redact": [RULE]}, {"COORDINATOR_LOG_DAYS": "3"})
    assert (found.redact, found.log_days, found.finished_days) == ((RULE,), 3.0, 30.0)
    assert load({}, {"COORDINATOR_REDACT": RULE}).redact == (RULE,)
    assert load({}, {"COORDINATOR_REDACT": json.dumps([RULE, "x"])}).redact == (RULE, "x")
    assert load({}, {"COORDINATOR_REDACT": "[0-9]{9}"}).redact == ("[0-9]{9}",)
    for name, wrong in {
        "redact": ["("],
        "table_prefix": "Shop",
        "sqlite_synchronous": "OFF",
        "log_days": -1,
        "finished_days": "old",
        "memory_watermark": 101,
    }.items():
        with pytest.raises(InvalidSetting, match=name):
            load({f"coordinator_{name}": wrong}, {})

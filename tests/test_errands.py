"""Errands: a worker does not load what only its start and a restore need."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.errors import CoordinatorError
from coordinator.recovery.errands import Errands, _answer, said_of, settings_of
from coordinator.recovery.records import Records
from coordinator.recovery.restorer import TERM, configured
from coordinator.settings import QueueSettings, Settings
from coordinator.store import Store
from tests.helpers import ROOT

W = "w@h/m/1/1"


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_url,
        database_url=f"sqlite:///{tmp_path / 'store.db'}",
        redact=("secret",),
        data_dir=tmp_path,
        queues={"q": QueueSettings(workers=2, max_concurrency=7, max_per_org=3)},
        limits={"model:ranker": 2},
        weights={"acme": 3},
        task_rules={"work": {"models": len}},
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.store_url)
    store.upgrade()
    yield store
    store.close()


def test_the_ledger_is_opened_and_the_worker_enrolled_by_another_process(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(settings)
    errands = Errands(records)
    with caplog.at_level(logging.INFO, "coordinator"):
        assert errands.ensure_open()
    assert records.ledger.epoch() == 1
    assert "epoch 1 is open with 0 jobs" in caplog.text, "its log lines are the worker's"
    errands.enrol(W, ["b", "a"], 3)
    (row,) = store.workers()
    assert (row.worker, row.queues, row.slots) == (W, ("a", "b"), 3)
    assert {"python", "celery"} <= row.versions.keys()
    assert not records.has_store


def test_whoever_has_the_store_open_does_it_itself(settings: Settings, store: Store) -> None:
    records = Records(settings)
    assert records.store is not None
    errands = Errands(records)
    errands.stop()
    assert errands.ensure_open()
    errands.enrol(W, ["a"], 1)
    assert [row.worker for row in store.workers()] == [W]


def test_nobody_is_sent_while_somebody_restores(settings: Settings) -> None:
    records = Records(settings)
    ledger = records.ledger
    assert ledger.elect(TERM, "somebody else", 60_000)
    errands = Errands(records)
    # A process that it sent would fail: there is none to be had.
    errands.stop()
    assert not errands.ensure_open()
    ledger.resign(TERM, "somebody else")
    with pytest.raises(CoordinatorError, match="the worker stops"):
        errands.ensure_open()


def test_what_stops_an_errand_is_told(settings: Settings) -> None:
    down = replace(settings, database_url="postgresql://h@127.0.0.1:1/none")
    with pytest.raises(CoordinatorError, match=r"127\.0\.0\.1:1/none cannot be used"):
        Errands(Records(down)).enrol(W, ["a"], 1)


def test_a_ledger_that_cannot_be_opened_is_not_tried_at_every_tick(settings: Settings) -> None:
    down = replace(settings, database_url="postgresql://h@127.0.0.1:1/none")
    errands = Errands(Records(down))
    with pytest.raises(CoordinatorError, match="cannot be used"):
        errands.ensure_open()
    errands._again_at += 3600
    # Were a process sent, this would raise.
    assert not errands.ensure_open()
    errands._again_at = 0.0
    with pytest.raises(CoordinatorError, match="cannot be used"):
        errands.ensure_open()


@pytest.mark.parametrize("answer", ['{"answer": [true]}', '{"error": "no such table"}'])
def test_lines_of_others_are_logged_and_harm_nothing(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = ["a warning", "3", "null", '{"text": "of a logger"}', '["x"', "\\xff"]
    told = json.dumps({"level": logging.INFO, "text": "epoch 1"})
    lines = "\n".join([*others[:3], told, answer, *others[3:], ""])
    process = subprocess.Popen(
        [sys.executable, "-c", f'import sys; sys.stdout.buffer.write(b"""{lines}""")'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
    )
    with caplog.at_level(logging.INFO, "coordinator"):
        if "error" in answer:
            with pytest.raises(CoordinatorError, match="no such table"):
                _answer(process, "")
        else:
            assert _answer(process, "") == [True]
    said = [record.getMessage() for record in caplog.records]
    assert said.pop(3) == "epoch 1"
    assert said == [f"[COORDINATOR] the process for the store wrote: {other}" for other in others]


def test_an_errand_that_cannot_be_read_ends_with_its_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "coordinator.recovery.errands"],
        input="{}",
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "KeyError" in ended.stderr


def test_the_other_process_has_the_settings_of_this_one(settings: Settings) -> None:
    there = settings_of(json.loads(json.dumps(said_of(settings))))
    assert configured(there) == configured(settings)
    for name in ("redis_url", "store_url", "key_prefix", "table_prefix", "sqlite_synchronous"):
        assert getattr(there, name) == getattr(settings, name)
    assert tuple(there.redact) == settings.redact
    assert there.data_dir == settings.data_dir

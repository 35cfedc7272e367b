"""Settings: the environment wins, and a wrong value is named together with what is allowed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from coordinator.errors import InvalidSetting, InvalidValue
from coordinator.settings import QueueSettings, Settings, load
from tests.helpers import ROOT


def test_defaults_need_nothing() -> None:
    settings = load({}, {})
    assert settings.embedded
    assert settings.lease_seconds == 30
    assert settings.retry_delays == (1.0, 2.0, 4.0)
    assert settings.store_url.startswith("sqlite:////")
    assert set(settings.queues) == {"selfplay", "training", "evaluation", "maintenance"}
    timeouts = {name: queue.timeout for name, queue in settings.queues.items()}
    assert timeouts == {
        "selfplay": 7200,
        "training": 86400,
        "evaluation": 3600,
        "maintenance": None,
    }


def test_the_environment_wins_over_the_configuration() -> None:
    configured = {"coordinator_lease_seconds": 5, "coordinator_durability": "redis"}
    settings = load(configured, {"COORDINATOR_LEASE_SECONDS": "10"})
    assert (settings.lease_seconds, settings.durability) == (10, "redis")


def test_celerys_own_keys_and_foreign_variables_are_left_alone() -> None:
    assert load({"task_default_queue": "x"}, {"HOME": "/nowhere"}) == load({}, {})


def test_a_namespace_of_celery_comes_before_the_prefix() -> None:
    app = Celery("django", set_as_current=False)
    given = {"CELERY_COORDINATOR_LIMITS": {"model:m": 2}, "CELERY_COORDINATOR_MODE": "observe"}
    app.config_from_object(given, namespace="CELERY")
    settings = load(app.conf, {})
    assert (settings.limits, settings.mode) == ({"model:m": 2}, "observe")
    wrong = Celery("django", set_as_current=False)
    wrong.config_from_object({"CELERY_COORDINATOR_LIMIT": {}}, namespace="CELERY")
    with pytest.raises(InvalidSetting, match="did you mean 'CELERY_COORDINATOR_LIMITS'"):
        load(wrong.conf, {})
    assert load({"COORDINATOR_MODE": "observe"}, {}).mode == "enforce", "not ours without one"


def test_an_empty_variable_and_none_count_as_unset() -> None:
    unset = load({"coordinator_redis_url": None}, {"COORDINATOR_DATA_DIR": ""})
    assert unset == load({}, {})


def test_mappings_come_from_the_environment_as_json() -> None:
    environ = {
        "COORDINATOR_LIMITS": '{"model:ranker": 2}',
        "COORDINATOR_JOB_TYPES": '{"train": "shop.train"}',
        "COORDINATOR_QUEUES": '{"gpu": {"workers": 2}}',
        "COORDINATOR_WEIGHTS": "acme=3",
    }
    with pytest.raises(InvalidSetting, match=r"COORDINATOR_WEIGHTS.*as JSON"):
        load({}, environ)
    settings = load({}, {**environ, "COORDINATOR_WEIGHTS": '{"acme": 3}'})
    assert (settings.limits, settings.weights) == ({"model:ranker": 2}, {"acme": 3})
    assert settings.job_types == {"train": "shop.train"}
    assert settings.queues["gpu"].workers == 2


def test_timeouts_come_from_the_environment_per_queue() -> None:
    environ = {"COORDINATOR_TRAINING_TIMEOUT": "60", "COORDINATOR_GPU_TIMEOUT": "1.5"}
    settings = load({"coordinator_queues": {"gpu": {"workers": 2}}}, environ)
    assert settings.queue("training").timeout == 60
    assert settings.queue("gpu") == QueueSettings(workers=2, timeout=1.5)


def test_a_configured_queue_keeps_the_defaults_it_does_not_name() -> None:
    settings = load({"coordinator_queues": {"selfplay": {"workers": 4, "timeout": None}}}, {})
    assert settings.queue("selfplay") == QueueSettings(workers=4, timeout=7200)
    assert settings.queue("another") == QueueSettings()


@pytest.mark.parametrize(
    ("maximum", "per_org", "percent", "limit"),
    [
        (100, 10, 50, 10),
        (4, 10, 50, 2),
        (5, 10, 50, 3),  # rounded up
        (1, 10, 50, 1),
        (100, 10, 0, 1),  # never none: a job that could never run would wait for ever
        (10, 3, 100, 3),
    ],
)
def test_an_orgs_share(maximum: int, per_org: int, percent: float, limit: int) -> None:
    queue = QueueSettings(max_concurrency=maximum, max_per_org=per_org, max_org_percent=percent)
    assert queue.org_limit == limit


@pytest.mark.parametrize(
    ("configured", "environ", "setting", "value", "allowed"),
    [
        (
            {},
            {"COORDINATOR_LEASE_SECONDS": "soon"},
            "COORDINATOR_LEASE_SECONDS",
            "soon",
            "1 to 3600",
        ),
        ({}, {"COORDINATOR_LEASE_SECONDS": "nan"}, "COORDINATOR_LEASE_SECONDS", "nan", "1 to 3600"),
        (
            {},
            {"COORDINATOR_REDIS_URL": "localhost"},
            "COORDINATOR_REDIS_URL",
            "localhost",
            "redis://",
        ),
        (
            {},
            {"COORDINATOR_TRAINING_TIMEOUT": "0"},
            "COORDINATOR_TRAINING_TIMEOUT",
            "0",
            "from 0.001",
        ),
        ({}, {"COORDINATOR_NIGHT_TIMEOUT": "5"}, "COORDINATOR_NIGHT_TIMEOUT", 5.0, "known queue"),
        ({"coordinator_lease_seconds": 0}, {}, "coordinator_lease_seconds", 0, "1 to 3600"),
        ({"coordinator_lease_seconds": True}, {}, "coordinator_lease_seconds", True, "a number"),
        (
            {"coordinator_durability": "disk"},
            {},
            "coordinator_durability",
            "disk",
            "database, redis",
        ),
        ({"coordinator_serialized": "perhaps"}, {}, "coordinator_serialized", "perhaps", "true or"),
        ({"coordinator_max_retries": 1.5}, {}, "coordinator_max_retries", 1.5, "a whole number"),
        ({"coordinator_max_retries": -1}, {}, "coordinator_max_retries", -1, "from 0"),
        ({"coordinator_retry_delays": "1,x"}, {}, "coordinator_retry_delays", "1,x", "a number"),
        ({"coordinator_exclude_queues": 5}, {}, "coordinator_exclude_queues", 5, "a list of names"),
        ({"coordinator_job_types": "x"}, {}, "coordinator_job_types", "x", "a mapping"),
        ({"coordinator_queues": "x"}, {}, "coordinator_queues", "x", "a mapping"),
        ({"coordinator_queues": {"gpu": 2}}, {}, "coordinator_queues['gpu']", 2, "a mapping"),
        (
            {"coordinator_queues": {"gpu": {"workers": -1}}},
            {},
            "coordinator_queues['gpu']['workers']",
            -1,
            "from 0",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    configured: dict[str, Any], environ: dict[str, str], setting: str, value: object, allowed: str
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load(configured, environ)
    assert (caught.value.field, caught.value.value) == (setting, value)
    message = str(caught.value)
    assert message.startswith(f"{setting}: {value!r} is not allowed: ")
    assert allowed in message


@pytest.mark.parametrize(
    ("configured", "environ", "meant"),
    [
        ({"coordinator_lease_second": 3}, {}, "coordinator_lease_seconds"),
        ({}, {"COORDINATOR_DATABASE": "x"}, "COORDINATOR_DATABASE_URL"),
        ({"coordinator_queues": {"gpu": {"worker": 1}}}, {}, "workers"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(
    configured: dict[str, Any], environ: dict[str, str], meant: str
) -> None:
    with pytest.raises(InvalidSetting, match=f"did you mean '{meant}'"):
        load(configured, environ)


def test_a_queue_needs_a_name_that_can_be_one() -> None:
    with pytest.raises(InvalidValue, match="coordinator_queues: 'my gpu' is not allowed"):
        load({"coordinator_queues": {"my gpu": {}}}, {})


def test_the_data_folder_may_start_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}, {"COORDINATOR_DATA_DIR": "~/jobs"}).data_dir == tmp_path / "jobs"


def test_every_setting_is_documented_in_the_readme_and_no_other() -> None:
    section = (ROOT / "README.md").read_text().split("\n## Settings\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"^\| `coordinator_(\w+)`", section, re.MULTILINE))
    assert named == {item.name for item in fields(Settings)}
    of_queues = re.search(r"each queue: (.*?)\.\n", section, re.DOTALL)
    assert of_queues, "README.md: the settings of a queue are not named"
    assert set(re.findall(r"`(\w+)`", of_queues[1])) == {
        item.name for item in fields(QueueSettings)
    }

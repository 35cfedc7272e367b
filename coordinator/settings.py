"""Settings: Celery style with the prefix ``coordinator_``; the environment (``COORDINATOR_*``) wins."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.errors import InvalidSetting
from coordinator.resources import check_name
from coordinator.secret import with_files
from coordinator.thresholds import GROUPS, AlertSettings, HealthSettings, PanicSettings, parsed

PREFIX = "coordinator_"
DATA_DIR = ".coordinator"

#: How long a job of the shipped queues may run, in seconds.
TIMEOUTS = {"selfplay": 2 * 3600.0, "training": 24 * 3600.0, "evaluation": 3600.0}
SHIPPED_QUEUES = ("selfplay", "training", "evaluation", "maintenance")


@dataclass(frozen=True)
class QueueSettings:
    """One queue.

    Attributes:
        workers: slots that ``coordinator up`` starts for it.
        max_concurrency: jobs that may run on it at once, over all hosts.
        max_per_org: jobs that one org may run on it at once.
        max_org_percent: share of ``max_concurrency`` that one org may use, in percent.
        paused: whether the queue starts paused when it is first seen.
        timeout: seconds a job may run, or None.
        heartbeat_timeout: seconds a job may go without a sign of life, or None.
    """

    workers: int = 1
    max_concurrency: int = 100
    max_per_org: int = 10
    max_org_percent: float = 50.0
    paused: bool = False
    timeout: float | None = None
    heartbeat_timeout: float | None = None

    @property
    def org_limit(self) -> int:
        """Jobs one org may run on the queue at once."""
        share = math.ceil(self.max_org_percent / 100 * self.max_concurrency)
        return max(1, min(self.max_per_org, share))


@dataclass(frozen=True)
class Settings:
    """All settings of one installation, checked.

    Attributes:
        mode: ``enforce``, or ``observe``: nothing is enforced, and what would have waited is counted.
        redis_url: Redis for ledger and broker; None is the embedded one.
        database_url: SQLAlchemy URL of the store; None is a SQLite file in the data folder.
        table_prefix: first part of the name of every table and view in the database.
        sqlite_synchronous: SQLite's ``PRAGMA synchronous``.
        redact: regular expressions of what is taken out of arguments, errors and results.
        log_days: age in days at which events leave the log.
        finished_days: age in days, since their end, at which finished jobs leave the database.
        memory_watermark: percent of Redis's maxmemory from which new jobs are refused.
        data_dir: folder of everything that is kept on this machine.
        durability: ``database`` (``delay()`` returns after the row is committed) or ``redis``.
        durability_fallback: whether a producer falls back to ``redis`` while the database is down.
        key_prefix: first part of every ledger key, so that one Redis serves several installations.
        lease_seconds: how long a silent worker keeps its jobs.
        shutdown_seconds: how long a worker that was told to stop lets its jobs go on; None is to their end.
        restart_idle_workers: whether a worker that takes nothing although messages wait for it restarts.
        queues: the managed queues by name.
        exclude_queues: queues of the app that are left to plain Celery.
        default_models_limit: holders of one model at once.
        limits: units of single resources, such as ``{"model:ranker": 2}``.
        weights: turns of single orgs, such as ``{"acme": 3}``; 1 by default.
        serialized: one job at a time over everything.
        reservation_after: seconds a job of several models waits before later ones may no longer delay it.
        verify_every: seconds between two verifications of the locks by beat; 0 is never.
        max_retries: retries after a failure; ``retry_delays`` gives their delays in seconds.
        task_rules: options by task name for producers that do not have the task's code.
        job_types: ``job_type`` to task name, for scripts over HTTP and batch files.
        allowed_callables, allowed_commands: what HTTP and batch files may name.
        app: the Celery app of the command line, as ``celery -A`` takes it.
        populator: ``module:callable`` that returns the wishes of the populator.
        workflows: JSON and TOML files that define workflows, or folders of them.
        summary: ``module:callable`` that tells ``coordinator up`` how far the models have come.
        flower_url: where Flower is, for the console's link.
        console_url: where the console is, for Flower's links.
        flower_events: whether Flower is told which jobs wait, and for what.
        panic: when circuit breakers open and close by themselves.
        health: from where on a queue is degraded, and unhealthy.
        alerts: when alerts are raised, and where they go.
    """

    mode: str = "enforce"
    # Not in what a traceback or a log shows of the settings.
    redis_url: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    table_prefix: str = ""
    sqlite_synchronous: str = "NORMAL"
    redact: tuple[str, ...] = ()
    log_days: float = 7.0
    finished_days: float = 30.0
    memory_watermark: float = 90.0
    data_dir: Path = Path(DATA_DIR)
    durability: str = "database"
    durability_fallback: bool = False
    key_prefix: str = "coordinator:"
    lease_seconds: float = 30.0
    shutdown_seconds: float | None = None
    restart_idle_workers: bool = False
    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
    exclude_queues: tuple[str, ...] = ()
    default_models_limit: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    serialized: bool = False
    reservation_after: float = 30.0
    verify_every: float = 3600.0
    max_retries: int = 3
    retry_delays: tuple[float, ...] = (1.0, 2.0, 4.0)
    task_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    job_types: Mapping[str, str] = field(default_factory=dict)
    allowed_callables: tuple[str, ...] = ()
    allowed_commands: tuple[str, ...] = ()
    app: str | None = None
    summary: str | None = None
    populator: str | None = None
    workflows: tuple[str, ...] = ()
    flower_url: str | None = None
    console_url: str | None = None
    flower_events: bool = True
    panic: PanicSettings = field(default_factory=PanicSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)

    @property
    def observing(self) -> bool:
        return self.mode == "observe"

    @property
    def embedded(self) -> bool:
        return self.redis_url is None

    @property
    def store_url(self) -> str:
        if self.database_url:
            return self.database_url
        return f"sqlite:///{(self.data_dir / 'coordinator.db').resolve()}"

    def queue(self, name: str) -> QueueSettings:
        """Return the settings of a queue; one that is not configured has the defaults."""
        return self.queues.get(name) or QueueSettings(timeout=TIMEOUTS.get(name))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def _number(low: float, high: float = math.inf) -> Callable[[object], float]:
    def parse(value: object) -> float:
        allowed = f"a number from {low:g}" + (f" to {high:g}" if high < math.inf else " up")
        try:
            number = float(value)  # type: ignore[arg-type]  # refused below
        except (TypeError, ValueError):
            raise ValueError(allowed) from None
        if isinstance(value, bool) or not low <= number <= high or not math.isfinite(number):
            raise ValueError(allowed)
        return number

    return parse


def _whole(low: int, high: float = math.inf) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = _number(low, high)(value)
        if number != int(number):
            raise ValueError(f"a whole number from {low}")
        return int(number)

    return parse


def _flag(value: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return str(value)

    return parse


def _names(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise ValueError("a list of names")
    return tuple(str(item).strip() for item in items if str(item).strip())


def _prefix(value: object) -> str:
    if not re.fullmatch(r"([a-z_][a-z0-9_]{0,19})?", _text(value)):
        raise ValueError("at most 20 lower-case letters, digits and underscores")
    return _text(value)


def _rules(value: object) -> tuple[str, ...]:
    # In the environment: one expression, or a JSON list of them.
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.startswith("[") else [value]
        except ValueError:
            value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of regular expressions")
    for rule in value:
        try:
            re.compile(rule)
        except (re.error, TypeError) as error:
            raise ValueError(f"a list of regular expressions ({rule!r}: {error})") from None
    return tuple(value)


def _delays(value: object) -> tuple[float, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError("a list of seconds")
    return tuple(_number(0)(item) for item in items)


def _mapping(value: object) -> Mapping[str, Any]:
    if isinstance(value, str):
        # From the environment. What is no JSON either is told like anything else that is no mapping.
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, Mapping):
        raise ValueError("a mapping (in the environment as JSON)")
    return value


def _numbers(low: int) -> Callable[[object], dict[str, int]]:
    def parse(value: object) -> dict[str, int]:
        whole = _whole(low)
        try:
            return {check_name("name", name): whole(item) for name, item in _mapping(value).items()}
        except ValueError:
            raise ValueError(
                f"a mapping of names to whole numbers from {low} (in the environment as JSON)"
            ) from None

    return parse


#: Said of URLs that name sentinels or several servers: Kombu would take the next one, and the ledger stay.
ONE_ADDRESS = (
    "one address that follows the master: HAProxy in front of the servers, as deploy/redis/haproxy.cfg "
    "has it, or the primary endpoint of a managed Redis"
)


def check_redis_url(value: object) -> str:
    """Return the URL of a Redis that ledger and broker can share.

    Raises:
        ValueError: it is none; says what is allowed, and shows nothing of it.
    """
    url = _text(value)
    if url.startswith("sentinel://") or ";" in url:
        raise ValueError(ONE_ADDRESS)
    if not url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise ValueError("a URL that begins with redis://, rediss:// or redis+socket://")
    try:
        _ = urlsplit(url).port
    except ValueError:
        # Its own message would show what follows the colon, which is a password then.
        raise ValueError(
            "a URL with a number as its port; / ? # @ : of a password are written %2F %3F %23 %40 %3A"
        ) from None
    return url


def _web_url(value: object) -> str:
    # It becomes a link: one that runs a script must not get there.
    url = _text(value)
    if not url.startswith(("http://", "https://")):
        raise ValueError("a URL that begins with http:// or https://")
    if "@" in urlsplit(url).netloc:
        raise ValueError("a URL without a password: everybody who may look at the console sees it")
    return url


_QUEUE_PARSERS: dict[str, Callable[[object], Any]] = {
    "workers": _whole(0),
    "max_concurrency": _whole(1),
    "max_per_org": _whole(1),
    "max_org_percent": _number(0, 100),
    "paused": _flag,
    "timeout": _number(0.001),
    "heartbeat_timeout": _number(1),
}

_PARSERS: dict[str, Callable[[object], Any]] = {
    "mode": _one_of("enforce", "observe"),
    "redis_url": check_redis_url,
    "database_url": _text,
    "table_prefix": _prefix,
    "sqlite_synchronous": _one_of("NORMAL", "FULL", "EXTRA"),
    "redact": _rules,
    "log_days": _number(0),
    "finished_days": _number(0),
    "memory_watermark": _number(10, 100),
    "data_dir": lambda value: Path(str(value)).expanduser(),
    "durability": _one_of("database", "redis"),
    "durability_fallback": _flag,
    "key_prefix": _text,
    "lease_seconds": _number(1, 3600),
    "shutdown_seconds": _number(0),
    "restart_idle_workers": _flag,
    "exclude_queues": _names,
    "default_models_limit": _whole(1),
    "limits": _numbers(0),
    "weights": _numbers(1),
    "serialized": _flag,
    "reservation_after": _number(0),
    "verify_every": _number(0),
    "max_retries": _whole(0),
    "retry_delays": _delays,
    "task_rules": _mapping,
    "job_types": _mapping,
    "allowed_callables": _names,
    "allowed_commands": _names,
    "app": _text,
    "summary": _text,
    "populator": _text,
    "workflows": _names,
    "flower_url": _web_url,
    "console_url": _web_url,
    "flower_events": _flag,
}


def _parse(
    name: str, shown: str, value: object, parsers: Mapping[str, Callable[[object], Any]]
) -> Any:
    try:
        return parsers[name](value)
    except ValueError as error:
        raise InvalidSetting(shown, value, str(error)) from None


def _queues(setting: str, value: object) -> dict[str, QueueSettings]:
    try:
        configured = dict(_mapping(value))
    except ValueError as error:
        raise InvalidSetting(setting, value, str(error)) from None
    found = {name: QueueSettings(timeout=TIMEOUTS.get(name)) for name in SHIPPED_QUEUES}
    for name, options in configured.items():
        check_name(setting, name)
        shown = f"{setting}[{name!r}]"
        if not isinstance(options, Mapping):
            raise InvalidSetting(shown, options, "a mapping of options")
        known = {}
        for option, item in options.items():
            if option not in _QUEUE_PARSERS:
                raise InvalidSetting(
                    shown, option, "one of " + ", ".join(_QUEUE_PARSERS), _QUEUE_PARSERS
                )
            if item is not None:
                known[option] = _parse(option, f"{shown}[{option!r}]", item, _QUEUE_PARSERS)
        found[name] = replace(found.get(name, QueueSettings()), **known)
    return found


def _configured(configured: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    items = list(configured.items())
    # Django's settings are Celery's in a namespace: CELERY_COORDINATOR_LIMITS. Celery knows it once they are read.
    namespace = getattr(configured, "prefix", None)
    prefixes = [PREFIX, f"{namespace}{PREFIX}".upper()] if namespace else [PREFIX]
    return {
        key.removeprefix(prefix).lower(): (key, value)
        for key, value in items
        for prefix in prefixes
        if key.startswith(prefix) and value is not None
    }


def load(
    configured: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of this installation.

    Args:
        configured: Celery's configuration; only keys with the prefix ``coordinator_`` are read, with that of
            Celery's namespace before it when there is one.
        environ: the environment; by default this process's.

    Raises:
        InvalidSetting: a wrong value or an unknown name, with the nearest known one.
    """
    environ = os.environ if environ is None else environ
    given = _configured(configured or {})
    timeouts: dict[str, float] = {}
    known = {item.name for item in fields(Settings)}
    for key, value in with_files(
        environ, [f"COORDINATOR_{name.upper()}" for name in known]
    ).items():
        if not key.startswith("COORDINATOR_") or value == "":
            continue
        name = key.removeprefix("COORDINATOR_").lower()
        queue = name.removesuffix("_timeout")
        if queue != name and name not in known:
            timeouts[queue] = _parse("timeout", key, value, _QUEUE_PARSERS)
            continue
        if name in known or difflib.get_close_matches(name, known, n=1, cutoff=0.75):
            # Other programs and orchestrators set variables with this prefix too (a Kubernetes service
            # named coordinator sets COORDINATOR_PORT): only what resembles a setting is one.
            given[name] = (key, value)
    queues = _queues(*given.pop("queues", (f"{PREFIX}queues", {})))
    for queue, seconds in timeouts.items():
        if queue not in queues:
            raise InvalidSetting(
                f"COORDINATOR_{queue.upper()}_TIMEOUT",
                seconds,
                "the timeout of a known queue",
                queues,
            )
        queues[queue] = replace(queues[queue], timeout=seconds)
    values: dict[str, Any] = {"queues": queues}
    values |= {name: parsed(name, *given.pop(name)) for name in GROUPS if name in given}
    for name, (shown, value) in given.items():
        if name not in _PARSERS:
            names = [
                shown[: len(shown) - len(name)] + known for known in (*_PARSERS, *GROUPS, "queues")
            ]
            if shown.isupper():
                names = [item.upper() for item in names]
            raise InvalidSetting("setting", shown, "a setting listed in the reference", names)
        values[name] = _parse(name, shown, value, _PARSERS)
    return Settings(**values)

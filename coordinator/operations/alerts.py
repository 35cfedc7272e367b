"""Alerts: what has been wrong for long enough that somebody should know; told to the log and to a webhook.

What is wrong since when is in the store, so that it outlives the process that looks. Each change is told once; a
webhook that does not answer is tried again with the next look, a few times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from coordinator.durations import shown_duration
from coordinator.errors import LedgerClosed
from coordinator.identity import holder
from coordinator.operations.health import HOUR_MS, Health

if TYPE_CHECKING:
    from coordinator.store import Condition

logger = logging.getLogger("coordinator")

WARNING, CRITICAL, RESOLVED = "warning", "critical", "resolved"

#: Seconds that one look may spend on a webhook, and calls of it for one change.
LOOK_SECONDS, CALLS = 6.0, 5

#: For how long nobody else looks.
TERM_MS = 30_000


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong.

    Attributes:
        name: ``queue_depth``, ``stuck_jobs``, ``failure_rate``, ``time_since_completion`` or ``worker_silent``.
        scope: the queue or worker, "" for the installation.
        level: ``warning``, ``critical``, or ``resolved`` when it is over.
        since: Unix seconds since when it is of this level.
        value, threshold: what was measured last, and what it exceeds; the last ones when it is over.
        message: in words, with the command that goes on.
        delivered: whether the webhook, if any, was told.
    """

    name: str
    scope: str
    level: str
    since: float
    value: float
    threshold: float
    message: str
    delivered: bool


@dataclass(frozen=True, slots=True)
class _Sign:
    """What one look found of one alert."""

    name: str
    scope: str
    value: float
    pair: tuple[float, float]
    message: str
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.name}:{self.scope}"


class Alerts(Health):
    """The verbs of alerts."""

    def get_alerts(self) -> list[Alert]:
        """Return what is wrong, the critical first.

        Raises:
            StoreUnavailable: not now.
        """
        found = [_shown(one) for one in self.store.conditions("alert").values()]
        rank = {CRITICAL: 0, WARNING: 1}
        return sorted(
            (one for one in found if one.level in rank),
            key=lambda one: (rank[one.level], one.name, one.scope),
        )

    def evaluate_alerts(self) -> list[Alert]:
        """Look at everything, raise and resolve alerts, and tell what has changed.

        Beat has it done. It takes a few seconds at most, whatever the webhook does.

        Returns:
            The alerts whose level has changed; none when somebody else looks at this moment.

        Raises:
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        if not self.ledger.elect("alerts", holder(), TERM_MS):
            return []
        try:
            return self._look()
        finally:
            self.ledger.resign("alerts", holder())

    def _look(self) -> list[Alert]:
        now, epoch = self.ledger.clock(), self.built_epoch()
        found = {sign.key: sign for sign in self._signs(now)}
        signs = {key: sign for key, sign in found.items() if sign.value > sign.pair[0]}
        if self.built_epoch() != epoch:
            raise LedgerClosed("the ledger was restored meanwhile")
        known, changed = self.store.conditions("alert"), []
        for key in sorted({*signs, *known}):
            before = known.get(key)
            one = _judged(key, signs.get(key), before, now)
            if before is None or before.state != one.state:
                changed.append(_shown(one))
                _log(changed[-1])
            if one != before:
                self.store.set_condition("alert", key, one.state, one.since, one.data)
        self._deliver()
        return changed

    def _deliver(self) -> None:
        url, deadline = self.settings.alerts.webhook, time.monotonic() + LOOK_SECONDS
        for key, one in self.store.conditions("alert").items():
            data = dict(one.data)
            if not data["told"] and url and time.monotonic() < deadline:
                from coordinator.operations.webhook import post

                data["calls"] += 1
                error = post(url, asdict(_shown(one)))
                data["told"] = error is None or data["calls"] >= CALLS
                if error is not None:
                    text = (
                        "[COORDINATOR] alert %s: the webhook does not take it (call %d of %d): %s"
                    )
                    logger.warning(text, key, data["calls"], CALLS, error)
            elif not url:
                data["told"] = True
            if one.state == RESOLVED and data["told"]:
                self.store.drop_condition("alert", key)
            elif data != one.data:
                self.store.set_condition("alert", key, one.state, one.since, data)

    def _signs(self, now: int) -> Iterator[_Sign]:
        rules, since = self.settings.alerts, now - HOUR_MS
        states = self.queues()
        for state in states:
            name = state.queue
            text = f"{state.pending} jobs pending on queue {name}; coordinator jobs --queue {name}"
            depth = rules.queue_depth
            yield _Sign("queue_depth", name, state.pending, depth, text, rules.queue_depth_for)
            failed = self.store.failed_since(since, name)
            ended = failed + self.store.completed_since(since, name)
            if ended >= rules.failure_volume:
                text = f"{failed} of {ended} jobs of queue {name} failed in the last hour; coordinator errors"
                rate = rules.failure_rate
                yield _Sign("failure_rate", name, 100 * failed / ended, (rate, rate), text)
        stuck = len(self.get_stuck_jobs())
        most = float(rules.stuck_jobs)
        text = f"{stuck} running jobs without progress; coordinator stuck"
        yield _Sign("stuck_jobs", "", stuck, (most, most), text)
        yield from self._completion(sum(state.pending for state in states), now)
        yield from self._silent(now)

    def _completion(self, pending: int, now: int) -> Iterator[_Sign]:
        oldest = self.store.oldest_pending_age() if pending else None
        if oldest is None:
            return
        last = self.store.last_completion()
        # An installation that had nothing to do is not late.
        seconds = oldest if last is None else min(oldest, (now - last) / 1000)
        most = self.settings.alerts.time_since_completion
        text = f"no job was completed for {shown_duration(seconds)}, {pending} are pending; coordinator status"
        yield _Sign("time_since_completion", "", seconds, (most, most), text)

    def _silent(self, now: int) -> Iterator[_Sign]:
        most = self.settings.alerts.worker_silent
        live = {str(one["id"]): one for one in self.ledger.workers()}
        nodes = {str(one.get("node") or one["id"].partition("/")[0]) for one in live.values()}
        told = set[str]()
        for worker in self.store.workers():
            # One of this name that lives has taken its place; one that left in order is not missed.
            if worker.state == "left" or worker.node in nodes | told:
                continue
            told.add(worker.node)
            seconds = (now - worker.last_heartbeat) / 1000
            text = (
                f"worker {worker.node} is silent for {shown_duration(seconds)}; "
                "start it again, or coordinator workers forget"
            )
            yield _Sign("worker_silent", worker.node, seconds, (most, most), text)


def _judged(key: str, sign: _Sign | None, known: Condition | None, now: int) -> Condition:
    """Return what becomes of an alert that is wrong now, or was."""
    from coordinator.store import Condition

    data: dict[str, Any] = dict(known.data) if known else {}
    after = RESOLVED
    if sign is None:
        data["critical_ms"] = 0
    else:
        over = sign.value > sign.pair[1]
        critical_ms = (data.get("critical_ms") or now) if over else 0
        after = CRITICAL if over and now - critical_ms >= sign.seconds * 1000 else WARNING
        threshold = sign.pair[1] if after == CRITICAL else sign.pair[0]
        data |= {"value": sign.value, "threshold": threshold, "message": sign.message}
        data["critical_ms"] = critical_ms
    if known is not None and after == known.state:
        return Condition("alert", key, after, known.since, data)
    return Condition("alert", key, after, now, {**data, "told": False, "calls": 0})


def _shown(one: Condition) -> Alert:
    name, _, scope = one.name.partition(":")
    data = one.data
    return Alert(
        name,
        scope,
        one.state,
        one.since / 1000,
        float(data.get("value") or 0),
        float(data.get("threshold") or 0),
        str(data.get("message") or ""),
        bool(data.get("told")),
    )


def _log(alert: Alert) -> None:
    level = {WARNING: logging.WARNING, CRITICAL: logging.ERROR}.get(alert.level, logging.INFO)
    name = f"{alert.name} of {alert.scope}" if alert.scope else alert.name
    logger.log(level, "[COORDINATOR] alert %s %s: %s", name, alert.level, alert.message)

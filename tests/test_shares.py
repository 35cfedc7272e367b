"""Fair shares: usage, limits for good and for a time, throttles, resets; in the ledger, the store and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import InvalidValue
from coordinator.work_queue import WorkQueue

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]

HOUR = 3_600_000


def limit_of(desk: Desk, org: str = "acme", queue: str = "work") -> tuple[int | None, str]:
    (share,) = [one for one in desk.queue.get_org_usage(org) if one.queue == queue]
    return share.limit, share.source


def test_usage_counts_running_waiting_and_share(desk: Desk) -> None:
    for _ in range(12):
        desk.send(org="acme")
    desk.send(org="acme", queue="training")
    desk.send("m", org="umbrella")
    desk.send()
    shares = {(one.org, one.queue): one for one in desk.queue.get_org_usage()}
    assert set(shares) == {("acme", "work"), ("acme", "training"), ("umbrella", "work")}
    acme = shares["acme", "work"]
    # Ten slots for two queues: the eleventh job and all after it wait.
    assert (acme.running, acme.waiting) == (10, 2)
    assert (acme.limit, acme.source, acme.until, acme.weight) == (10, "configuration", None, 1)
    assert shares["umbrella", "work"].waiting == 1
    assert {one.org for one in desk.queue.get_org_usage(queue="training")} == {"acme"}
    desk.queue.weigh("acme", 3)
    assert {one.weight for one in desk.queue.get_org_usage("acme")} == {3}


def test_a_limit_for_good_and_one_for_a_time(desk: Desk) -> None:
    assert desk.queue.limit_org("acme", 2, "work", by="ann") == ("org:work/acme",)
    ids = [desk.send(org="acme") for _ in range(4)]
    assert [desk.state(one) for one in ids] == ["dispatched"] * 2 + ["waiting"] * 2
    until = desk.ledger.clock() + HOUR
    desk.queue.limit_org("acme", 3, "work", until_ms=until)
    assert [desk.state(one) for one in ids] == ["dispatched"] * 3 + ["waiting"]
    (share,) = desk.queue.get_org_usage("acme", "work")
    assert (share.limit, share.source, share.until) == (3, "override", until / 1000)
    desk.ledger.redis.hset(f"{desk.ledger.prefix}meta", "clock_offset", HOUR + 1000)
    desk.ledger.tick()
    assert limit_of(desk) == (2, "operator")
    assert desk.queue.reset_limits("acme", dry_run=True).resources == ("org:work/acme",)
    assert limit_of(desk) == (2, "operator")
    desk.queue.reset_limits("acme")
    assert desk.state(ids[3]) == "dispatched"
    assert limit_of(desk) == (10, "configuration")


def test_a_throttle_lowers_and_never_raises(desk: Desk) -> None:
    until = desk.ledger.clock() + HOUR
    desk.queue.throttle_org("acme", percent=25, until_ms=until, queue="work")
    assert limit_of(desk) == (3, "override")
    desk.queue.throttle_org("acme", percent=50, until_ms=until, queue="work")
    assert limit_of(desk) == (5, "override"), "of the limit beneath, not of the throttle"
    desk.queue.throttle_org("acme", 50, until_ms=until, queue="work")
    assert limit_of(desk) == (10, "override")
    everywhere = desk.queue.throttle_org("acme", 1, until_ms=until)
    assert {"org:work/acme", "org:training/acme"} <= set(everywhere)


def test_a_reset_of_one_queue_and_of_all(desk: Desk) -> None:
    for org in ("acme", "umbrella"):
        desk.queue.limit_org(org, 1, "work")
        desk.queue.limit_org(org, 1, "training")
    desk.queue.reset_limits("acme", "work")
    desk.queue.limit("model:m", 3)
    assert desk.queue.reset_limits(resource="model:m", dry_run=True).resources == ("model:m",)
    assert desk.queue.reset_limits(resource="model:m").resources == ("model:m",)
    assert desk.queue.reset_limits(resource="model:m").resources == ()
    with pytest.raises(InvalidValue, match="without an org and a queue"):
        desk.queue.reset_limits("acme", resource="model:m")
    assert desk.ledger.limited("org") == [
        "org:training/acme",
        "org:training/umbrella",
        "org:work/umbrella",
    ]
    assert desk.queue.reset_limits(queue="training").resources == (
        "org:training/acme",
        "org:training/umbrella",
    )
    assert len(desk.queue.reset_limits().resources) == 1
    assert desk.ledger.limited("org") == []


def test_limits_outlive_a_wiped_redis_and_are_audited(desk: Desk, alone: Installation) -> None:
    desk.queue.limit_org("acme", 2, "work", reason="floods", by="ann")
    until = desk.ledger.clock() + HOUR
    desk.queue.throttle_org("acme", 1, "work", until_ms=until, by="bob")
    entries = desk.queue.get_audit(resource="org:work/acme")
    assert [(one.event, one.who, one.after) for one in entries] == [
        ("override_set", "bob", "1"),
        ("limit_set", "ann", "2"),
    ]
    alone.redis.flushdb()
    again = WorkQueue(alone.app.coordination.settings)
    again.wait_until_open()
    limit = again.ledger.limits(["org:work/acme"])["org:work/acme"]
    assert (limit.value, limit.source, limit.until_ms, limit.beneath) == (1, "override", until, 2)
    again.ledger.pool.disconnect()


def test_an_override_ends_alone_when_only_it_is_reset(desk: Desk) -> None:
    desk.queue.limit_org("acme", 4, "work")
    desk.queue.limit_org("acme", 2, "work", until_ms=desk.ledger.clock() + HOUR)
    desk.ledger.limit("org:work/acme", None, "ann", until_ms=1)
    assert limit_of(desk) == (4, "operator")


@pytest.mark.parametrize(
    "wrong",
    [
        {"org": "a b", "value": 1},
        {"org": "acme", "value": -1},
        {"org": "acme", "value": True},
        {"org": "acme", "value": 1, "queue": "trainig"},
        {"org": "acme", "value": 1, "until_ms": 1},
    ],
)
def test_what_cannot_be_a_limit(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        desk.queue.limit_org(**wrong)
    assert desk.ledger.limited("org") == []


@pytest.mark.parametrize(
    "wrong", [{}, {"to": 1, "percent": 5.0}, {"percent": 101.0}, {"to": 1, "until_ms": 0}]
)
def test_what_cannot_be_a_throttle(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        desk.queue.throttle_org("acme", **{"until_ms": desk.ledger.clock() + HOUR, **wrong})
    assert desk.ledger.limited("org") == []

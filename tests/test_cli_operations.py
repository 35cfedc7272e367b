"""The commands about shares, panic, health, workers and the populator, on a real Redis, database and app."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.populator import Wish
from tests.helpers import said

if TYPE_CHECKING:
    from tests.desk import Call, Desk
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk"]

#: What the plan of the test's app wishes.
WISHES = [Wish("work", "m", "play", {"model": "m"}, 2, "more games")]


def plan() -> list[Wish]:
    return WISHES


@pytest.fixture(autouse=True)
def planned(alone: Installation) -> None:
    alone.conf["coordinator_populator"] = f"{__name__}:plan"


def test_orgs_and_their_limits(desk: Desk, call: Call) -> None:
    assert "no org has jobs" in call("orgs").stdout
    for _ in range(3):
        desk.send(org="acme")
    told = said(call("set-limit", "acme", "2", "-Q", "work", "--reason", "floods", "--json"))
    assert told == {"limits": {"org:work/acme": 2}, "until": None}
    (share,) = said(call("orgs", "--json"))
    assert (share["running"], share["limit"], share["source"]) == (3, 2, "operator")
    told = call("throttle", "acme", "50%", "--for", "2h", "-Q", "work").stdout
    assert "org:work/acme may run 1 at once until " in told
    assert "coordinator reset-limit acme" in told
    line = next(line for line in call("orgs").stdout.splitlines() if line.startswith("acme"))
    assert "override until " in line
    assert said(call("reset-limit", "acme", "--dry-run", "--json"))["reset"] == ["org:work/acme"]
    assert "is reset" in call("reset-limit", "acme").stdout
    assert "no limit was set" in call("reset-limit", "acme").stdout
    assert said(call("orgs", "weigh", "acme", "3", "--json"))["weight"] == 3
    assert said(call("orgs", "weigh", "acme", "--reset", "--json"))["weight"] == 1


def test_a_reset_of_all_asks(desk: Desk, call: Call) -> None:
    call("set-limit", "acme", "1", "-Q", "work")
    call("set-limit", "umbrella", "1", "-Q", "work")
    call("reset-limit", answer="n\n", code=1)
    assert len(desk.ledger.limited("org")) == 2
    assert len(said(call("reset-limit", "-Q", "work", "--yes", "--json"))["reset"]) == 2
    assert desk.ledger.limited("org") == []


def test_limits_of_other_resources(desk: Desk, call: Call) -> None:
    first, second = desk.send("m"), desk.send("m")
    assert desk.state(second) == "waiting"
    assert "model:m: 2 at once" in call("set-limit", "model:m", "2").stdout
    assert {desk.state(first), desk.state(second)} == {"dispatched"}
    assert said(call("reset-limit", "model:m", "--json"))["reset"] == ["model:m"]
    for wrong in (
        ("set-limit", "modle:m", "2"),
        ("set-limit", "acme", "-1"),
        ("set-limit", "model:m", "2", "-Q", "work"),
        ("set-limit", "acme", "2", "-Q", "wrok"),
        ("throttle", "acme", "half", "--for", "2h"),
        ("throttle", "acme", "2"),
        ("throttle", "acme", "200%", "--for", "2h"),
        ("orgs", "weigh", "acme"),
        ("orgs", "weigh", "acme", "0"),
        ("reset-limit", "queue:work", "-Q", "work"),
    ):
        call(*wrong, code=2)


def test_panic_by_hand(desk: Desk, call: Call) -> None:
    assert "nothing is in panic" in call("panic").stdout
    desk.send(integration="db")
    rehearsed = call("panic", "open", "integration:db", "--dry-run").stdout
    assert rehearsed.startswith(
        "integration:db would become open (was closed; 1 running, 0 waiting)"
    )
    call("panic", "open", "integration:db", answer="n\n", code=1)
    assert desk.queue.get_holds() == []
    told = said(call("panic", "open", "integration:db", "--yes", "--reason", "fire", "--json"))
    assert [(one["verb"], one["after"]) for one in told] == [("panic_opened", "open")]
    assert "in panic already" in call("panic", "open", "integration:db", "--yes", code=1).stderr
    (shown,) = said(call("panic", "status", "integration:db", "--json"))
    assert (shown["state"], shown["cause"]) == ("open", "fire")
    assert "by hand" in call("panic").stdout
    told = said(call("panic", "close", "integration:db", "--probe", "--yes", "--json"))
    assert told[0]["after"] == "half_open"
    call("panic", "close", "integration:db", "--yes")
    assert "not in panic" in call("panic", "close", "integration:db", "--yes", code=1).stderr
    assert "nothing to do" in call("panic", "evaluate", "--dry-run").stdout
    for wrong in ("work", "queue:wrok", "model:m"):
        call("panic", "open", wrong, "--yes", code=2)


def test_the_emergency_stop(desk: Desk, call: Call) -> None:
    assert "everything would become open" in call("panic", "stop", "--dry-run").stdout
    call("panic", "stop", "--yes", "--by", "ann")
    job_id = desk.send(queue="training")
    assert desk.state(job_id) == "waiting"
    call("panic", "resume", code=2)
    call("panic", "resume", "training", "--all", code=2)
    told = call("panic", "resume", "training", "--yes").stdout
    assert "queue:training is half_open" in told
    assert desk.state(job_id) == "dispatched"
    assert desk.state(desk.send()) == "waiting"
    call("panic", "resume", "--all", "--yes")
    assert "no emergency stop" in call("panic", "resume", "--all", "--yes", code=1).stderr


def test_health_and_its_exit_codes(desk: Desk, call: Call) -> None:
    found = said(call("health", "work", "--json"))
    assert (found["level"], found["alerts"]) == ("healthy", [])
    desk.queue.pause("work", by="ann", reason="upgrade")
    assert "paused by ann" in call("health", "work").stdout
    call("health", "work", "--strict", code=1)
    desk.send(queue="selfplay")
    assert said(call("health", "--json", code=1))["level"] == "unhealthy"
    assert "ok  Redis answers" in call("health", "--live").stdout
    assert said(call("health", "--ready", "--json"))["ok"] is True
    call("health", "--live", "--worker", "w")
    assert "NO  worker x has no lease" in call("health", "--live", "--worker", "x", code=1).stdout
    desk.ledger.leave(desk.worker)
    assert "NO  no live worker" in call("health", "--ready", code=1).stdout
    for wrong in (("--live", "--ready"), ("--worker", "w"), ("work", "--live"), ("wrok",)):
        call("health", *wrong, code=2)


def test_alerts_are_shown(desk: Desk, call: Call) -> None:
    for _ in range(10):
        desk.fail("x")
    desk.record()
    desk.queue.evaluate_alerts()
    shown = call("health", "training").stdout
    assert "! critical for " in shown
    assert "10 of 10 jobs of queue work failed in the last hour; coordinator errors" in " ".join(
        shown.split()
    )


def test_workers_and_scale(desk: Desk, call: Call) -> None:
    desk.ledger.renew("w2/here/2/2", ("work",), 1, register=True)
    desk.record()
    desk.ledger.leave("w2/here/2/2")
    desk.record()
    assert [one["state"] for one in said(call("workers", "--json"))] == ["live", "left"]
    assert len(said(call("workers", "--live", "--json"))) == 1
    shown = call("workers").stdout
    assert "0/10" in shown
    assert "w2" in shown
    assert said(call("workers", "forget", "--json"))["forgotten"] == 0
    forget = ("workers", "forget", "--silent-for", "1s")
    dry = call("workers", "forget", "--silent-for", "1h", "--dry-run").stdout
    assert "0 workers would be forgotten" in dry
    call(*forget, "--yes")
    assert "share" not in call("scale", "work", "--count", "4", "--dry-run").stdout
    told = said(call("scale", "work", "--count", "4", "--dry-run", "--json"))
    assert (told["before"], told["wanted"], told["workers"]) == (10, 4, {"w": 4})
    assert "no live worker" in call("scale", "selfplay", "--count", "1", code=1).stderr
    for wrong in (("work",), ("work", "--count", "0"), ("wrok", "--count", "1")):
        call("scale", *wrong, code=2)
    assert "did you mean 'w'" in call("workers", "drain", "ww", code=2).stderr


def test_populate_decides_and_explains(desk: Desk, call: Call) -> None:
    shown = call("populate", "--health", code=1)
    assert shown.stdout.startswith("the populator does not work"), shown.output
    assert said(call("populate", "--dry-run", "--json"))["added"] == 2
    assert desk.queue.get_pending_count() == 0
    assert "more games" in call("populate", "--by", "ann").stdout
    assert desk.queue.get_pending_count() == 2
    assert said(call("populate", "--explain", "--json"))["decisions"][0]["code"] == "filled"
    assert said(call("populate", "--health", "--json"))["is_healthy"] is True
    desk.queue.pause("work")
    desk.queue.clear_all("work")
    assert "queue work is paused" in call("populate").stdout
    assert said(call("populate", "--force", "--json"))["added"] == 2
    told = [(one.event, one.after) for one in desk.queue.get_audit(event="populated")]
    assert told == [("populated", "2 jobs added")] * 2
    call("populate", "--explain", "--health", code=2)

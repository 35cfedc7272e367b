"""The HTTP API: every route of the contract, on a real Redis and database."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from coordinator.web.application import document
from tests.helpers import ROOT

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.web_site import Site
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

#: What scripts rely on: routes, and fields of what they answer.
ROUTES = """
POST /jobs | GET /jobs | GET /jobs/{job_id} | GET /jobs/{job_id}/why | GET /jobs/{job_id}/events
POST /jobs/{job_id}/cancel | POST /jobs/{job_id}/resubmit | POST /jobs/{job_id}/release
GET /queue/status | GET /work_queue_status | GET /work_assignment_status | GET /status | GET /health | GET /metrics
POST /queues/{queue}/pause | POST /queues/{queue}/resume | POST /queues/{queue}/drain | POST /queues/{queue}/retry
POST /workflows/{name}/execute | GET /workflows | GET /workflows/executions/{execution_id}
GET /orgs | PUT /orgs/{org}/limit | DELETE /orgs/{org}/limit
GET /panic/{scope} | PUT /panic/{scope} | DELETE /panic/{scope} | GET /workers | GET /locks | GET /audit
"""

#: Beside these: the server lives, who calls, live updates, all breakers, a listing, the end of an execution.
MORE = """
GET /workflows/executions | POST /workflows/executions/{execution_id}/cancel | GET /live
POST /session | GET /session | DELETE /session | GET /events | GET /panic
"""


def routes(text: str) -> set[str]:
    return {
        route.strip() for line in text.splitlines() for route in line.split("|") if route.strip()
    }


def play(*acts: Any, **more: Any) -> dict[str, Any]:
    return {"task": "play", "args": list(acts), **more}


def test_the_document_has_the_routes_of_the_contract_and_no_others(site: Site) -> None:
    found = {
        f"{method.upper()} {path}"
        for path, methods in document(site.app)["paths"].items()
        for method in methods
    }
    assert found == routes(ROUTES) | routes(MORE)


def test_every_route_is_explained_and_every_error_is_a_problem(site: Site) -> None:
    for path, methods in document(site.app)["paths"].items():
        for method, told in methods.items():
            assert told.get("description"), f"{method} {path}"
            for status, answer in told["responses"].items():
                if status.startswith(("4", "5")):
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)


def test_a_job_that_starts_and_one_that_it_blocks(site: Site) -> None:
    first = site.post("/jobs", play(model="m"), 202)
    assert {name: first[name] for name in ("status", "detail", "state")} == {
        "status": "PENDING",
        "detail": "dispatched",
        "state": "dispatched",
    }
    assert (first["blocked_by_job_id"], first["conflict_reason"], first["queue_position"]) == (
        None,
        None,
        None,
    )
    second = site.post("/jobs", play(model="m", org="acme", priority=3), 202)
    assert second["blocked_by_job_id"] == first["job_id"]
    assert second["conflict_reason"] == f"Model conflict: m in use by normal job {first['job_id']}"
    assert (second["state"], second["queue_position"]) == ("waiting", 1)
    job = site.get(f"/jobs/{second['job_id']}")
    assert (job["task"], job["org"], job["priority"], job["models"]) == ("play", "acme", 3, ["m"])
    site.desk.record()
    # Who asked for it is in the log, with where from.
    (entry,) = site.get("/audit", event="requested", job_id=first["job_id"])["entries"]
    assert entry["who"] == "token:a-operator@testclient"


def test_why_is_what_the_work_queue_says(site: Site) -> None:
    site.post("/jobs", play(model="m"), 202)
    waiting = site.post("/jobs", play(model="m"), 202)["job_id"]
    told = site.get(f"/jobs/{waiting}/why")
    again = json.loads(json.dumps(asdict(site.desk.queue.why(waiting))))
    # The moment it may start moves while one looks.
    for one in (told, again):
        one.pop("expected_start_ms")
    assert told == again


def test_other_fields_are_arguments_and_a_job_type_is_a_task(
    open_site: type[Site], open_desk: type[Desk], alone: Installation
) -> None:
    alone.conf["coordinator_job_types"] = {"game": "template"}
    site = open_site(open_desk(alone))
    told = site.post("/jobs", {"job_type": "game", "model": "m", "number": 3, "kind": "big"}, 202)
    job = site.get(f"/jobs/{told['job_id']}")
    assert (job["task"], job["models"]) == ("template", ["m"])
    assert "'number': 3" in job["kwargs"]
    assert "'model': 'm'" in job["kwargs"]
    twice = {"job_type": "game", "model": "m", "number": 3, "kwargs": {"number": 4}}
    assert site.post("/jobs", twice, 422)["errors"][0]["field"] == "number"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "task"),
        ({"task": "plai"}, "task"),
        ({"task": "plain"}, "task"),
        ({"job_type": "nothing"}, "job_type"),
        (play(priority=10), "priority"),
        (play(queue="nowhere"), "queue"),
        (play(model="a b"), "models"),
        ({"task": "add", "args": [1]}, "arguments"),
        (play(countdown=-1), "countdown"),
        (play(countdown=1e300), "countdown"),
        ([], ""),
    ],
    ids=str,
)
def test_what_cannot_be_a_job_is_told_and_not_accepted(site: Site, body: Any, field: str) -> None:
    response = site.ask("POST", "/jobs", content=json.dumps(body))
    told = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert (told["type"], told["status"]) == ("about:blank", 422)
    assert told["title"].startswith("Unprocessable")
    assert (
        field in (told["errors"][0]["field"] if told["errors"] else "") or field in told["detail"]
    )
    assert site.desk.queue.get_pending_count() == 0


@pytest.mark.parametrize(
    "odd", ["\ud800", "\0", "<script>", "\u202e", "'; --", "x" * 100_000], ids=ascii
)
def test_arguments_may_be_any_text(site: Site, odd: str) -> None:
    told = site.ask("POST", "/jobs", content=json.dumps(play(odd, more={odd: odd}))).json()
    site.desk.record()
    assert site.get(f"/jobs/{told['job_id']}")["state"] == "dispatched"
    assert site.get("/jobs")["jobs"][0]["job_id"] == told["job_id"]
    site.get(f"/jobs/{told['job_id']}/events")


def test_commands_must_be_allowed(
    open_site: type[Site], open_desk: type[Desk], alone: Installation
) -> None:
    alone.conf["coordinator_allowed_commands"] = ["echo"]

    @alone.app.task(name="command", allow_listed={"command": "allowed_commands"}, shared=False)
    def command(command: list[str]) -> None:
        pass

    site = open_site(open_desk(alone))
    refused = site.post("/jobs", {"task": "command", "command": ["rm", "-rf", "x"]}, 422)
    assert "coordinator_allowed_commands" in refused["detail"]
    site.post("/jobs", {"task": "command", "command": ["echo", "x"]}, 202)


def test_jobs_come_in_pages_and_filtered(site: Site) -> None:
    ids = [site.post("/jobs", play(model=f"m{n % 2}", org="acme"), 202)["job_id"] for n in range(5)]
    site.desk.record()
    seen, cursor = [], None
    while True:
        page = site.get("/jobs", limit=2, order="oldest", **({"cursor": cursor} if cursor else {}))
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids
    assert [job["job_id"] for job in site.get("/jobs", model="m1")["jobs"]] == [ids[3], ids[1]]
    assert len(site.get("/jobs", status="PENDING", org="acme", queue="work")["jobs"]) == 5
    assert site.get("/jobs", text="no such")["jobs"] == []
    assert site.ask("GET", "/jobs", params={"cursor": "x"}).status_code == 422
    assert site.ask("GET", "/jobs", params={"status": "DONE"}).status_code == 422
    assert site.ask("GET", "/jobs", params={"limit": "0"}).status_code == 422


def test_what_there_is_not_is_404_and_what_cannot_be_done_now_409(site: Site) -> None:
    for method, path in (
        ("GET", "/jobs/nobody"),
        ("GET", "/jobs/nobody/why"),
        ("GET", "/jobs/nobody/events"),
        ("POST", "/jobs/nobody/cancel"),
        ("POST", "/jobs/nobody/resubmit"),
        ("POST", "/jobs/nobody/release"),
        ("GET", "/nowhere"),
    ):
        response = site.ask(method, path)
        assert response.status_code == 404, (path, response.text)
        assert response.json()["status"] == 404
    done = site.post("/jobs", play(), 202)["job_id"]
    site.desk.end(done)
    assert "ended" in site.post(f"/jobs/{done}/cancel", None, 409)["detail"]
    wrong = site.ask("PATCH", "/jobs")
    assert (wrong.status_code, wrong.json()["title"]) == (405, "Method Not Allowed")
    assert wrong.headers["allow"]


def test_cancel_resubmit_and_release(site: Site) -> None:
    waiting = [site.post("/jobs", play(model="m"), 202)["job_id"] for _ in range(2)][1]
    told = site.post(f"/jobs/{waiting}/cancel", {"reason": "not needed"})
    assert told == {"job_id": waiting, "state": "canceled"}
    site.desk.record()
    events = site.get(f"/jobs/{waiting}/events")["events"]
    last = events[-1]
    assert (last["event"], last["who"], last["why"]) == (
        "canceled",
        "token:a-operator@testclient",
        "not needed",
    )
    # Behind those that wait, with an argument more.
    assert site.post(f"/jobs/{waiting}/resubmit", {"kwargs": {"size": 2}})["state"] == "waiting"
    site.desk.record()
    assert "'size': 2" in site.get(f"/jobs/{waiting}")["kwargs"]
    running = site.post("/jobs", play(), 202)["job_id"]
    site.desk.start(running)
    assert site.post(f"/jobs/{running}/release", {"reason": "r"})["state"] == "stopping"
    assert site.ask("POST", f"/jobs/{running}/cancel", json={"raeson": "x"}).status_code == 422


def test_queues_are_paused_resumed_drained_and_retried(site: Site) -> None:
    told = site.post("/queues/work/pause", {"reason": "a test", "seconds": 3600})
    assert told["paused"] == ["queue:work"]
    assert told["until"] is not None
    job = site.post("/jobs", play(), 202)
    assert "token:a-operator@testclient" in job["conflict_reason"]
    assert "a test" in job["conflict_reason"]
    drained = site.post("/queues/work/drain", {"delay_seconds": 60, "dry_run": True})
    assert (drained["matched"], drained["done"], drained["sample"][0]["job_id"]) == (
        1,
        0,
        job["job_id"],
    )
    assert site.post("/queues/work/drain", {"delay_seconds": 60})["done"] == 1
    assert site.post("/queues/work/drain", {}, 422)["errors"]
    assert site.post("/queues/work/resume") == {"resumed": True}
    assert site.post("/queues/work/resume") == {"resumed": False}
    site.desk.fail("no luck")
    site.desk.record()
    assert site.post("/queues/work/retry", {"error": "other"})["matched"] == 0
    assert site.post("/queues/work/retry", {"error": "luck"})["done"] == 1
    for verb in ("pause", "resume", "retry"):
        assert site.post(f"/queues/nowhere/{verb}", None, 422)["errors"][0]["field"] == "queue"


def test_status_of_queues_and_work(site: Site) -> None:
    first = site.post("/jobs", play(model="m"), 202)["job_id"]
    site.desk.start(first)
    second = site.post("/jobs", play(model="m"), 202)["job_id"]
    told = site.get("/queue/status")
    active = told["active_job"]
    assert (active["job_id"], active["job_type"], active["models"]) == (first, "play", ["m"])
    assert told["active_jobs"] == [active]
    assert told["queue_length"] == 1
    (queued,) = told["queued_jobs"]
    assert (queued["job_id"], queued["model"], queued["blocked_by_job_id"]) == (second, "m", first)
    assert queued["conflict_reason"].startswith("Model conflict: m")
    assert queued["queued_at"] == pytest.approx(site.desk.ledger.clock() / 1000, abs=60)
    numbers = site.get("/work_queue_status")
    assert (numbers["pending"], numbers["in_progress"], numbers["active_workers"]) == (1, 1, 1)
    # The desk's worker renews when it is told to only: after five seconds its job is stalled.
    assert numbers["stalled"] in (0, 1)
    (worker,) = site.get("/work_assignment_status")["workers"]
    assert (worker["assigned"], worker["completed"], worker["running"]) == (1, 0, 1)
    assert site.get("/status")["alive_peers"] == ["w/here/1/1".partition("/")[0]]
    (lock,) = site.get("/locks")["locks"]
    assert (lock["resource"], lock["waiting"]) == ("model:m", 1)
    assert {"queue:work", "model:m"} <= {
        one["resource"] for one in site.get("/locks", kind=["queue", "model"])["locks"]
    }
    assert len(site.get("/workers")["workers"]) == 1
    health = site.get("/health")
    assert set(health) == {"is_healthy", "message", "details"}


def test_limits_of_orgs_and_panic_are_for_admins(site: Site) -> None:
    for method, path, body in (
        ("PUT", "/orgs/acme/limit", {"limit": 1}),
        ("DELETE", "/orgs/acme/limit", None),
        ("PUT", "/panic/queue:work", {}),
        ("DELETE", "/panic/queue:work", None),
    ):
        assert site.ask(method, path, "operator", json=body).status_code == 403
    response = site.ask(
        "PUT", "/orgs/acme/limit", json={"limit": 1, "queue": "work", "reason": "r"}
    )
    assert response.json() == {"limits": {"org:work/acme": 1}, "until": None}
    first, second = [site.post("/jobs", play(org="acme"), 202) for _ in range(2)]
    assert (first["state"], second["state"]) == ("dispatched", "waiting")
    (share,) = site.get("/orgs", org="acme")["orgs"]
    assert (share["running"], share["waiting"], share["limit"]) == (1, 1, 1)
    assert site.ask("DELETE", "/orgs/acme/limit").json() == {"reset": ["org:work/acme"]}
    opened = site.ask("PUT", "/panic/queue:work", json={"reason": "smoke"})
    assert [step["after"] for step in opened.json()] == ["open"]
    assert site.ask("PUT", "/panic/queue:work", json={}).status_code == 409
    told = site.get("/panic/queue:work")
    assert (told["state"], told["by"], told["cause"]) == (
        "open",
        "token:a-admin@testclient",
        "smoke",
    )
    assert [one["scope"] for one in site.get("/panic")["breakers"]] == ["queue:work"]
    assert site.ask("DELETE", "/panic/queue:work").json()[0]["after"] == "closed"
    assert site.ask("DELETE", "/panic/queue:work").status_code == 409
    assert site.ask("GET", "/panic/model:m").status_code == 422


def test_a_key_makes_a_request_once(site: Site) -> None:
    key = {"Idempotency-Key": "one"}
    first = site.post("/jobs", play(model="m"), 202, headers=key)
    # What it stands on has changed meanwhile; the answer has not.
    site.desk.start(first["job_id"])
    assert site.post("/jobs", play(model="m"), 202, headers=key) == first
    assert site.desk.queue.get_pending_count() == 0
    assert "another request" in site.post("/jobs", play(model="n"), 422, headers=key)["detail"]
    # Keys are each caller's own.
    other = site.post("/jobs", play(model="m"), 202, scope="admin", headers=key)
    assert other["job_id"] != first["job_id"]
    paused = site.post("/queues/work/pause", {"seconds": 60}, headers={"Idempotency-Key": "p"})
    assert (
        site.post("/queues/work/pause", {"seconds": 60}, headers={"Idempotency-Key": "p"}) == paused
    )


def test_a_key_of_a_refused_request_is_free_again(site: Site) -> None:
    key = {"Idempotency-Key": "one"}
    assert site.post("/jobs", play(queue="nowhere"), 422, headers=key)["errors"]
    site.post("/jobs", play(), 202, headers=key)
    assert site.post("/jobs/nobody/cancel", None, 404, headers={"Idempotency-Key": "two"})
    site.post("/queues/work/pause", None, headers={"Idempotency-Key": "two"})


def test_a_request_that_was_cut_off_half_way_makes_the_same_job(site: Site) -> None:
    key = {"Idempotency-Key": "one"}
    first = site.post("/jobs", play(model="m"), 202, headers=key)
    # As if the server had died before it kept the answer.
    store = site.desk.queue.store
    with store.writing() as connection:
        connection.execute(sa.update(store.schema.accounts.answers).values(status=None, body=None))
    again = site.post("/jobs", play(model="m"), 202, headers=key)
    assert again["job_id"] == first["job_id"]
    assert len(store.jobs(limit=10)) == 1


def test_requests_are_bounded(site: Site) -> None:
    assert site.ask("POST", "/jobs", content=b"x" * 1_000_001).status_code == 413
    deep = b'{"task": "play", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert site.ask("POST", "/jobs", content=deep).status_code in (400, 422)
    assert site.ask("POST", "/jobs", content=b"{").status_code == 422
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.ask("POST", "/jobs", content=b"task=play", headers=form).status_code == 415


def test_every_header_of_every_answer_keeps_it_private(site: Site) -> None:
    for response in (site.ask("GET", "/live", ""), site.ask("GET", "/jobs"), site.ask("GET", "/x")):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_page_of_the_api_is_what_the_document_says() -> None:
    from docs.generate.web import PAGE, reference

    assert PAGE.read_text() == reference(), "write it anew: make docs"


def test_the_readme_tells_of_the_web() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.search(r"coordinator web token create", text)

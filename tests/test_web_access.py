"""Who may call the HTTP API: tokens, sessions, scopes, and what keeps guessers out."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from coordinator.errors import InvalidValue, Refused
from coordinator.web.access import CSRF_HEADER, LOGINS, TOKENS
from coordinator.web.application import document
from coordinator.web.bounds import Failures

if TYPE_CHECKING:
    from tests.web_site import Site

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

PASSWORD = "correct horse battery"

#: What asks nobody who they are.
OPEN = {("get", "/live"), ("post", "/session")}

BODIES = {"/orgs/{org}/limit": {"limit": 1}, "/queues/{queue}/drain": {"remove": True}}


def calls(site: Site) -> list[tuple[str, str, str, Any]]:
    """Return method, pattern, path and body of every route that is not open to all."""
    return [
        (method, path, path.replace("{scope}", "serial").replace("{", "").replace("}", ""), body)
        for path, methods in document(site.app)["paths"].items()
        for method in methods
        if (method, path) not in OPEN
        for body in [BODIES.get(path) if method in ("put", "post") else None]
    ]


def log_in(site: Site, name: str = "ann", password: str = PASSWORD) -> Any:
    # A browser of its own: cookies of one test client are kept.
    return TestClient(site.app).post("/session", json={"user": name, "password": password})


def test_nobody_gets_anything_without_showing_who_they_are(site: Site) -> None:
    for method, _, path, body in [*calls(site), ("get", "", "/openapi.json", None)]:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer coordinator_0_0"},
            {"Cookie": "coordinator_session=x"},
        ):
            response = site.client.request(method, path, headers=headers, json=body)
            assert response.status_code in (401, 429), (method, path, headers)
            assert response.headers["content-type"] == "application/problem+json"
            if response.status_code == 401:
                assert response.headers["www-authenticate"].startswith("Bearer")
    assert site.client.get("/live").json() == {"alive": True}
    assert site.desk.queue.get_holds() == []


def test_scopes(site: Site) -> None:
    for method, path, own, body in calls(site):
        for scope, forbidden in (
            ("viewer", method != "get" and path != "/session"),
            ("operator", method in ("put", "delete") and path != "/session"),
        ):
            if forbidden:
                response = site.ask(method, own, scope, json=body)
                assert response.status_code == 403, (method, path, scope)
                assert scope in response.json()["detail"]
    assert site.desk.queue.get_holds() == []
    assert site.ask("GET", "/openapi.json", "viewer").json()["info"]["title"] == "Coordinator"
    who = site.get("/session", "operator")
    assert who == {"name": "a-operator", "kind": "token", "scope": "operator", "csrf_token": ""}


def test_a_token_ends_when_it_is_revoked_and_when_its_time_has_come(site: Site) -> None:
    site.get("/jobs")
    site.accounts.revoke_token("a-viewer", by="test")
    assert site.ask("GET", "/jobs", "viewer").status_code == 401
    with pytest.raises(Refused, match="no token"):
        site.accounts.revoke_token("a-viewer", by="test")
    now = int(time.time() * 1000)
    site.tokens["viewer"] = site.accounts.create_token("b", "viewer", by="test", until_ms=now - 1)
    assert site.ask("GET", "/jobs", "viewer").status_code == 401
    site.tokens["viewer"] = site.accounts.create_token(
        "c", "viewer", by="test", until_ms=now + 60_000
    )
    site.get("/jobs")
    with pytest.raises(Refused, match="already"):
        site.accounts.create_token("c", "admin", by="test")
    with pytest.raises(InvalidValue, match="scope"):
        site.accounts.create_token("d", "root", by="test")
    (used,) = [token for token in site.desk.queue.store.tokens() if token.name == "c"]
    assert used.used_ms is not None


def test_secrets_are_nowhere_in_the_database(site: Site) -> None:
    site.accounts.add_user("ann", PASSWORD, "operator", by="test")
    session = log_in(site).cookies["coordinator_session"]
    path = site.desk.queue.store.url.database
    assert path is not None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "$argon2id$" in dump
    for secret in (PASSWORD, session, *(text.split("_", 2)[2] for text in site.tokens.values())):
        assert secret not in dump


def test_wrong_tokens_are_slowed_down_and_known_ones_are_not(site: Site) -> None:
    site.get("/jobs")
    most = TOKENS[0]
    # Of one that exists too: a part of it is no secret.
    wrong = site.tokens["viewer"][:-4] + "AAAA"
    statuses = [
        site.client.get("/jobs", headers={"Authorization": f"Bearer {text}"}).status_code
        for text in (wrong, *(f"coordinator_{n}_x" for n in range(most)))
    ]
    assert statuses == [401] * most + [429]
    late = site.client.get("/jobs", headers={"Authorization": f"Bearer {wrong}"})
    assert 0 < int(late.headers["retry-after"]) <= 60
    assert late.json()["status"] == 429
    site.get("/jobs")


def test_failures_are_counted_per_caller_for_a_while_and_forgotten() -> None:
    failures = Failures(2, 0.0)
    failures.note("a")
    failures.note("a")
    # Longer ago than no time at all.
    assert failures.wait("a") == 0
    failures = Failures(2, 100.0)
    failures.note("a")
    assert failures.wait("a") == 0
    failures.note("a")
    assert 99 <= failures.wait("a") <= 101
    assert failures.wait("b") == 0
    failures.forget("a")
    assert failures.wait("a") == 0


def test_a_session_begins_acts_and_ends(site: Site) -> None:
    site.accounts.add_user("ann", PASSWORD, "operator", by="test")
    told = log_in(site)
    assert told.status_code == 200
    cookie = told.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    browser = TestClient(site.app, cookies=dict(told.cookies))
    own = {CSRF_HEADER: told.json()["csrf_token"]}
    assert browser.get("/session").json() == told.json()
    pause = {"reason": "by ann"}
    # What another site makes the browser do comes without the header.
    for headers in ({}, {CSRF_HEADER: "wrong"}):
        refused = browser.post("/queues/work/pause", json=pause, headers=headers)
        assert (refused.status_code, CSRF_HEADER in refused.json()["detail"]) == (403, True)
    assert browser.post("/queues/work/pause", json=pause, headers=own).status_code == 200
    assert site.desk.queue.get_holds()[0].by == "user:ann@testclient"
    assert browser.put("/panic/serial", json={}, headers=own).status_code == 403
    stolen = dict(browser.cookies)
    assert browser.delete("/session", headers=own).status_code == 204
    assert TestClient(site.app, cookies=stolen).get("/session").status_code == 401
    verbs = [entry.event for entry in site.desk.queue.get_audit(who="user:ann@testclient")]
    assert {"logged_in", "paused", "logged_out"} <= set(verbs)


def test_a_new_password_and_the_end_of_a_user_end_their_sessions(site: Site) -> None:
    site.accounts.add_user("ann", PASSWORD, "viewer", by="test")
    first = TestClient(site.app, cookies=dict(log_in(site).cookies))
    assert first.get("/session").status_code == 200
    site.accounts.set_password("ann", PASSWORD + "2", by="test")
    assert first.get("/session").status_code == 401
    assert log_in(site).status_code == 401
    again = log_in(site, password=PASSWORD + "2")
    second = TestClient(site.app, cookies=dict(again.cookies))
    assert second.get("/session").status_code == 200
    site.accounts.remove_user("ann", by="test")
    assert second.get("/session").status_code == 401
    with pytest.raises(Refused, match="no user"):
        site.accounts.remove_user("ann", by="test")
    with pytest.raises(InvalidValue, match="password"):
        site.accounts.add_user("bob", "short", "viewer", by="test")


def test_a_session_ends_by_itself(site: Site) -> None:
    store = site.desk.queue.store
    site.accounts.add_user("ann", PASSWORD, "viewer", by="test")
    store.open_session("d", "ann")
    assert store.session("d", 60_000, 60_000) is not None
    # Not used for longer than no time; begun longer ago than that.
    assert store.session("d", -1, 60_000) is None
    assert store.session("d", 60_000, 60_000) is None
    store.open_session("e", "ann")
    assert store.session("e", 60_000, -1) is None


def test_passwords_are_not_guessed_for_long(site: Site) -> None:
    site.accounts.add_user("ann", PASSWORD, "viewer", by="test")
    most = LOGINS[0]
    answers = [log_in(site, "ann" if n % 2 else "nobody", f"wrong {n}") for n in range(most)]
    assert {answer.status_code for answer in answers} == {401}
    # Nothing tells who is a user.
    assert len({answer.text for answer in answers}) == 1
    late = log_in(site)
    assert (late.status_code, int(late.headers["retry-after"]) > 0) == (429, True)
    failed = site.desk.queue.get_audit(event="login_failed")
    assert {entry.who for entry in failed} == {"user:ann@testclient", "user:nobody@testclient"}
    assert len(failed) == most

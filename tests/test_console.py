"""The console's pages without a browser: who may do what, what forms must bring, what is shown and what never."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from coordinator.web.access import AGE_MS, COOKIE, IDLE_MS
from coordinator.web.accounts import FIRST
from coordinator.web.credentials import digest
from coordinator.web.pages.charts import Series, lines, nice, spread, stacked
from coordinator.web.pages.console import MODULES
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import inside
from coordinator.web.pages.words import address, ago, every, linked, number, place, short

if TYPE_CHECKING:
    from tests.desk import Desk
    from tests.web_site import Site

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

PASSWORD = "a password for tests"
SCOPES = ("viewer", "operator", "admin")

#: Every page that is looked at, and what each verb's form brings at least.
PAGES = (
    "",
    "jobs",
    "job?id={job}",
    "trends",
    "models",
    "workflows",
    "execution?id={job}",
    "audit",
    "bulk",
)
FORMS: dict[str, dict[str, str]] = {
    "jobs/preview": {"verb": "cancel", "id": "{job}"},
    "jobs/act": {"verb": "cancel", "id": "{job}"},
    "bulk": {"verb": "retry"},
    "pause": {"queue": "work"},
    "resume": {"queue": "work"},
    "workflows/execute": {"workflow": "single"},
    "workflows/cancel": {"id": "{job}"},
    "panic/open": {"scope": "queue:work"},
    "panic/close": {"scope": "queue:work"},
    "logout": {},
}
ADMINS = ("panic/open", "panic/close")

HOSTILE = "\"><script>alert(1)</script>'<img src=x onerror=alert(1)>{{ 7*7 }}"

#: As far as names of models and orgs may be.
NAME = '"><script>alert(1)</script>'


class Visitor:
    """Somebody with a browser."""

    def __init__(self, site: Site, scope: str = "") -> None:
        self.client = TestClient(site.app, base_url="http://testserver/console/")
        self.csrf = ""
        if scope:
            answer = self.client.post("login", data={"user": f"a-{scope}", "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            self.csrf = re.findall('name="csrf" value="([0-9a-f]{64})"', answer.text)[0]

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)

    def send(self, path: str, csrf: str | None = None, **fields: Any) -> httpx2.Response:
        """Send a form as the pages do, and stay where its answer is."""
        data = {"csrf": self.csrf if csrf is None else csrf, **fields}
        return self.client.post(path, data=data, follow_redirects=False)


@pytest.fixture
def house(site: Site) -> Site:
    for scope in SCOPES:
        site.accounts.add_user(f"a-{scope}", PASSWORD, scope, by="test")
    return site


def filled(path: str, job_id: str) -> dict[str, str]:
    return {name: text.format(job=job_id) for name, text in FORMS[path].items()}


def test_these_are_all_pages_and_forms() -> None:
    found = set()
    for module in MODULES:
        for route in module.router.routes:
            assert isinstance(route, Paged)
            found |= {(method, route.path.removeprefix("/")) for method in route.methods or ()}
    pages = {("GET", page.partition("?")[0]) for page in PAGES}
    assert found == pages | {("POST", path) for path in FORMS}


def test_nobody_sees_a_page_without_a_login(house: Site) -> None:
    visitor = Visitor(house)
    for page in PAGES:
        answer = visitor.get(page.format(job="x"), follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/console/login?next=%2Fconsole%2F"), page
        # The script of a page whose session has ended is told so instead.
        told = visitor.get(page, headers={"X-Refresh": "1"}, follow_redirects=False)
        assert told.status_code == 401
    for path in FORMS:
        answer = visitor.send(path, **filled(path, "x"))
        assert answer.status_code == 303, path
        assert "/console/login" in answer.headers["location"], path


def test_tokens_open_no_page_and_act_on_none(house: Site) -> None:
    headers = {"Authorization": f"Bearer {house.tokens['admin']}"}
    visitor = Visitor(house)
    answer = visitor.get("jobs", headers=headers, follow_redirects=False)
    assert answer.status_code == 303


def test_every_form_needs_the_word_of_its_own_session(house: Site, desk: Desk) -> None:
    job_id, other = desk.send("m"), Visitor(house, "admin").csrf
    visitor = Visitor(house, "admin")
    assert other != visitor.csrf
    for path in FORMS:
        for csrf in ("", other, visitor.csrf[:-1], visitor.csrf.upper()):
            answer = visitor.send(path, csrf=csrf, **filled(path, job_id))
            assert answer.status_code == 403, path
        fields = {"csrf": visitor.csrf, **filled(path, job_id)}
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
            answer = visitor.client.post(path, data=fields, headers=headers)
            assert answer.status_code == 403, path
        assert visitor.client.post(path, json=fields).status_code == 415
    assert desk.state(job_id) == "dispatched"
    assert desk.queue.get_holds() == []


def test_another_site_cannot_log_somebody_in(house: Site) -> None:
    visitor = Visitor(house)
    fields = {"user": "a-admin", "password": PASSWORD}
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert visitor.client.post("login", data=fields, headers=headers).status_code == 403
    assert COOKIE not in visitor.client.cookies


def test_a_viewer_cannot_act_whatever_they_send(house: Site, desk: Desk) -> None:
    job_id, visitor = desk.send("m"), Visitor(house, "viewer")
    for path in FORMS:
        if path != "logout":
            answer = visitor.send(path, **filled(path, job_id))
            assert answer.status_code == 403, path
            assert "Not allowed" in answer.text
    assert desk.state(job_id) == "dispatched"
    assert desk.queue.get_holds() == []


def test_an_operator_cannot_do_what_is_an_admins(house: Site, desk: Desk) -> None:
    visitor = Visitor(house, "operator")
    for path in ADMINS:
        assert visitor.send(path, **filled(path, "x")).status_code == 403
    assert visitor.send("panic/open", scope="serial").status_code == 403
    # Nothing named would be everything.
    assert visitor.send("pause", reason="all of it").status_code == 422
    assert desk.queue.get_holds() == []


def test_no_page_offers_what_its_reader_may_not_do(house: Site, desk: Desk) -> None:
    desk.start(job_id := desk.send("m"))
    desk.fail("boom", "n")
    desk.queue.pause("work", by="test")
    desk.record()
    for scope, forbidden in (("viewer", [*FORMS]), ("operator", [*ADMINS])):
        visitor = Visitor(house, scope)
        for page in PAGES:
            text = visitor.get(page.format(job=job_id)).text
            offered = set(re.findall(r'action="/console/([a-z/]+)"', text))
            # The form to log out, and the one of bulk actions, which a viewer is refused.
            assert not offered & set(forbidden) - {"logout", "bulk"}, (scope, page)


def test_what_pages_say_of_themselves(house: Site) -> None:
    visitor = Visitor(house, "viewer")
    for path in ("", "jobs", "login", "nothing-here"):
        answer = visitor.get(path)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "style-src 'self'" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        # Nothing that the policy would stop, and nothing from elsewhere.
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", answer.text)
        assert set(re.findall(r'(?:src|href)="(https?:[^"]*)"', answer.text)) == set()


def test_files_are_kept_by_browsers_and_change_their_address(house: Site) -> None:
    visitor = Visitor(house)
    found = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', visitor.get("login").text)
    assert len(set(found)) >= 3
    for url in found:
        answer = visitor.get(url.removeprefix("/console/"))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    for name in ("../base.html", "idiomorph.LICENSE", "%2e%2e%2fbase.html", "nothing.css"):
        assert visitor.get(f"static/{name}").status_code == 404


def test_hostile_names_are_shown_as_they_are(house: Site, desk: Desk) -> None:
    job_id = f"id-{HOSTILE}"
    kwargs = {"model": f"model-{NAME}"}
    desk.installation.task("play").apply_async(
        (HOSTILE,), kwargs, task_id=job_id, org=f"org-{NAME}"
    )
    desk.end(job_id, "failed", f"error {HOSTILE}")
    desk.queue.pause("work", reason=f"reason {HOSTILE}", by=f"by {HOSTILE}")
    desk.queue.pause(model=f"held-{NAME}", reason=HOSTILE, by="test")
    desk.send(f"held-{NAME}")
    desk.record()
    visitor, seen = Visitor(house, "admin"), 0
    asked = ("jobs", {"text": HOSTILE}), ("audit", {"who": HOSTILE, "since": "2h"})
    for page in PAGES:
        path, _, query = page.partition("?")
        text = visitor.get(path, params={"id": job_id} if query else {}).text
        for harmful in ("<script>alert", "<img src=x", "{{"):
            assert (harmful in text) == (harmful == "{{" and "7*7" in text), (page, harmful)
        seen += "&lt;script&gt;" in text
    assert seen >= 4
    for path, fields in asked:
        answer = visitor.get(path, params=fields)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
    for path in ("jobs/act", "jobs/preview", "pause", "bulk", "panic/open"):
        fields = dict.fromkeys(("verb", "id", "queue", "reason", "back", "scope"), HOSTILE)
        answer = visitor.send(path, **fields)
        assert answer.status_code in (404, 422), path
        assert "<script>alert" not in answer.text, path


def test_secrets_are_in_no_page_and_in_no_log(
    house: Site, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    visitor = Visitor(house, "admin")
    wrong = Visitor(house).client.post(
        "login", data={"user": "a-admin", "password": "hunter2-long"}
    )
    assert wrong.status_code == 401
    cookie = visitor.client.cookies[COOKIE]
    texts = [visitor.get(page.format(job="x")).text for page in PAGES] + [wrong.text]
    for secret in (PASSWORD, "hunter2-long", cookie, digest(cookie), *house.tokens.values()):
        assert not [text for text in texts if secret in text]
        assert secret not in caplog.text


def test_arguments_are_shown_as_they_were_redacted(
    open_desk: Any, open_site: Any, alone: Any
) -> None:
    alone.conf["coordinator_redact"] = [r"key=(?P<secret>\w+)"]
    desk = open_desk(alone)
    site = open_site(desk)
    site.accounts.add_user("a-viewer", PASSWORD, "viewer", by="test")
    job_id = desk.send("m", "key=sesame")
    desk.record()
    with site.client:
        text = Visitor(site, "viewer").get(f"job?id={job_id}").text
    assert "key=[redacted]" in text
    assert "sesame" not in text
    desk.ledger.pool.disconnect()


def test_logins_are_in_the_log_and_lead_nowhere_else(house: Site, desk: Desk) -> None:
    visitor = Visitor(house)
    for to in ("https://evil.test/", "//evil.test", "/console/..\\evil", "javascript:alert(1)", ""):
        fields = {"user": "a-viewer", "password": PASSWORD, "next": to}
        answer = visitor.client.post("login", data=fields, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
    visitor.client.post("login", data={"user": "nobody", "password": "x"})
    told = [(one.event, one.who) for one in desk.queue.get_audit(limit=3)]
    assert told[0] == ("login_failed", "user:nobody@testclient")
    assert told[1] == ("logged_in", "user:a-viewer@testclient")


def test_wrong_passwords_are_slowed_down_on_the_page_too(house: Site) -> None:
    visitor = Visitor(house)
    statuses = [
        visitor.client.post("login", data={"user": "x", "password": "y"}).status_code
        for _ in range(11)
    ]
    assert statuses == [401] * 10 + [429]


@pytest.mark.parametrize(("column", "age"), [("used_at", IDLE_MS), ("created_at", AGE_MS)])
def test_sessions_end(house: Site, desk: Desk, column: str, age: int) -> None:
    visitor = Visitor(house, "viewer")
    sessions = desk.queue.store.schema.accounts.sessions
    with desk.queue.store.writing() as connection:
        connection.execute(sessions.update().values({column: sessions.c[column] - age - 1000}))
    assert visitor.get("jobs", follow_redirects=False).status_code == 303


def test_the_cookie_is_out_of_reach(house: Site) -> None:
    visitor = Visitor(house)
    fields = {"user": "a-viewer", "password": PASSWORD}
    answer = visitor.client.post("login", data=fields, follow_redirects=False)
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    away = Visitor(house, "viewer")
    assert away.send("logout").headers["location"] == "/console/login"
    assert away.get("jobs", follow_redirects=False).status_code == 303


def test_jobs_are_ticked_previewed_and_acted_on(house: Site, desk: Desk) -> None:
    waiting, done = desk.send("m"), desk.send("n")
    desk.end(done)
    desk.record()
    visitor = Visitor(house, "operator")
    ids = [waiting, done, "unknown"]
    text = visitor.send("jobs/preview", verb="cancel", id=ids).text
    assert "Cancel 1 job?" in text
    assert "left alone: it is completed" in text
    assert "not known (any more)" in text
    assert desk.state(waiting) == "dispatched"
    text = visitor.send("jobs/act", verb="cancel", id=ids, reason="tidy").text
    assert "1 of 3 jobs canceled" in text
    assert desk.state(waiting) in ("canceled", "gone")
    # What cannot be done to the one job that is named is an answer, not a page of outcomes.
    assert visitor.send("jobs/act", verb="release", id=done).status_code == 409
    assert visitor.send("jobs/act", verb="explode", id=done).status_code == 422
    assert visitor.send("jobs/act", verb="cancel").status_code == 422


def test_bulk_verbs_are_previewed_first(house: Site, desk: Desk) -> None:
    failed = [desk.fail("disk full", f"m{number}") for number in range(3)]
    desk.fail("other", "m9")
    desk.record()
    visitor = Visitor(house, "operator")
    fields = {"verb": "retry", "error": "disk"}
    assert "3 jobs would be resubmitted" in visitor.send("bulk", **fields).text
    assert [desk.queue.get_job(one).status for one in failed] == ["FAILED"] * 3
    text = visitor.send("bulk", **fields, sure="yes", reason="disk is bigger now").text
    assert "3 of 3 jobs resubmitted" in text
    desk.record()
    assert [desk.queue.get_job(one).status for one in failed] == ["PENDING"] * 3
    for verb, status in (("postpone", "delayed"), ("remove", "canceled")):
        visitor.send("bulk", verb=verb, delay="2h", sure="yes")
        desk.record()
        assert {desk.queue.get_job(one).state for one in failed} == {status}
    assert visitor.send("bulk", verb="cancel", error="x").status_code == 422
    assert visitor.send("bulk", verb="cancel", queue="nowhere").status_code == 422


def test_pauses_end_by_themselves_and_panic_is_an_admins(house: Site, desk: Desk) -> None:
    visitor = Visitor(house, "admin")
    text = visitor.client.post(
        "pause",
        data={"csrf": visitor.csrf, "queue": "work", "for": "2h", "reason": "why not"},
    ).text
    assert "Paused queue work." in text
    assert "why not" in text
    (hold,) = desk.queue.get_holds()
    assert hold.until is not None
    assert hold.by == "user:a-admin@testclient"
    assert visitor.send("pause", queue="work", **{"for": "soon"}).status_code == 422
    # Said once.
    assert "Paused queue work." not in visitor.get("").text
    visitor.send("resume", queue="work")
    for scope in ("queue:work", "serial"):
        visitor.send("panic/open", scope=scope, reason="fire")
        assert "fire" in visitor.get("").text
        visitor.send("panic/close", scope=scope)
    assert "fire" not in {hold.reason for hold in desk.queue.get_holds()}


def test_pages_of_jobs_and_of_the_log_go_on_where_they_ended(house: Site, desk: Desk) -> None:
    sent = [desk.send(None) for _ in range(60)]
    desk.record()
    visitor = Visitor(house, "viewer")
    found: list[str] = []
    path: str | None = "jobs?queue=work"
    while path:
        text = visitor.get(path).text
        found += re.findall(r'<tr id="job-([^"]+)"', text)
        following = re.search(r'href="([^"]+)" rel="next"', text)
        path = following and following[1].replace("&amp;", "&").removeprefix("/console/")
        assert path is None or "queue=work" in path
    assert found == sent[::-1]
    first = visitor.get("audit?event=submitted").text
    assert 'rel="next"' not in first
    assert first.count("<tr id=") == 60


def test_a_first_admin_is_added_once(house: Site, desk: Desk, alone: Any) -> None:
    assert house.accounts.add_first(by="test") is None
    for scope in SCOPES:
        house.accounts.remove_user(f"a-{scope}", by="test")
    password = house.accounts.add_first(by="test")
    assert password is not None
    assert len(password) >= 20
    answer = Visitor(house).client.post("login", data={"user": FIRST, "password": password})
    assert answer.status_code == 200
    assert "admin" in answer.text
    assert house.accounts.add_first(by="test") is None


def test_words() -> None:
    assert [ago(at, 1000.0) for at in (999.5, 990, 880, None, 1090)] == [
        "now",
        "10 s ago",
        "2 min ago",
        "",
        "in 1 min",
    ]
    assert [number(value) for value in (1234567, 0.25, 1234.5, None)] == [
        "1,234,567",
        "0.2",
        "1,234",
        "",
    ]
    assert [every(seconds) for seconds in (15, 120, 1800, 14400, 86400)] == [
        "15 s",
        "2 min",
        "30 min",
        "4 h",
        "1 d",
    ]
    assert address("/a", {"b": "c&d", "e": None}, b="<") == "/a?b=%3C"
    assert [
        inside(path) for path in ("/console/jobs?a=b", "/jobs", None, "//x", "/console/\n")
    ] == [
        "/console/jobs?a=b",
        *["/console/"] * 4,
    ]
    execution = "workflow-0d41a1f0-1111-4222-8333-aaaaaaaaaaaa"
    assert (place(execution), short(execution)) == (
        f"/console/execution?id={execution}",
        "0d41a1f0…",
    )
    assert f'/console/job?id={execution}.play"' in linked(f"in use by {execution}.play")
    assert [short(text) for text in (f"{execution}.play", "nightly-1", "a" * 40)] == [
        "0d41a1f0…play",
        "nightly-1",
        "aaaaaaaa…",
    ]
    job_id = "0d41a1f0-1111-4222-8333-aaaaaaaaaaaa"
    assert str(linked(f"<b> {job_id} </b>")) == (
        f'&lt;b&gt; <a class="id" href="/console/job?id={job_id}" title="{job_id}">0d41a1f0…</a> &lt;/b&gt;'
    )


def test_the_operations_page_shows_flow_workers_and_orgs_and_the_next_one_the_locks(
    house: Site, desk: Desk
) -> None:
    runs = desk.send("m-1", org="acme")
    desk.start(runs)
    desk.send("m-1", org="umbrella")
    desk.queue.pause("training", reason="a full disk", by="ann")
    desk.queue.open_panic("integration:mail", reason="on fire", by="bob")
    visitor = Visitor(house, "viewer")
    text = visitor.get("").text
    for part in ("acme", "umbrella", "a full disk", "on fire", f"job?id={runs}"):
        assert part in text, part
    worker = text.partition('id="workers"')[2]
    assert worker.index(">w<") < worker.index("acme"), (
        "the table of the workers, then that of the orgs"
    )
    locks = visitor.get("models").text
    assert "m-1" in locks
    assert f"job?id={runs}" in locks


def test_charts_are_drawn_to_scale() -> None:
    assert [nice(value) for value in (0, 1, 1.1, 23, 26, 99, 1000)] == [1, 1, 2, 25, 50, 100, 1000]
    chart = stacked([Series("a", [1, None], ["x", "y"]), Series("b", [1, 4], ["x", "y"])])
    assert chart.top == 5
    assert [(bar.kind, bar.y, bar.height) for bar in chart.bars] == [
        ("a", 80, 20),
        ("b", 60, 20),
        ("b", 20, 80),
    ]
    drawn = lines([Series("a", [0, None, 5, 10], list("wxyz"))])
    assert drawn.curves[0].paths == ("666.67,50.0 1000.0,0.0",)
    assert len(drawn.curves[0].dots) == 3
    flat = lines([Series("elo", [500.0, 500.0], ["x", "y"])], from_zero=False)
    assert flat.bottom < flat.top
    assert spread([str(place) for place in range(31)]) == ["0", "8", "15", "22", "30"]

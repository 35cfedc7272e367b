"""The console as people use it: a real Chromium, a real server, a real worker."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.console_site import Console
    from tests.workers import Installation

pytest_plugins = ["tests.workers", "tests.console_site"]
pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = (
    "",
    "jobs",
    "jobs?status=FAILED",
    "trends",
    "models",
    "workflows",
    "audit",
    "bulk",
    "job?id=unknown",
)

#: What is fine takes most of the time to describe.
VIOLATIONS = {"resultTypes": ["violations"]}

PHONE = {"width": 375, "height": 740}

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"

expect.set_options(timeout=30_000)


@pytest.fixture(autouse=True)
def _no_error_in_any_page(console: Console) -> Iterator[None]:
    console.errors.clear()
    yield
    assert console.errors == []


def submit(page: Page, menu: str, **fields: str) -> None:
    """Open a menu by its button, fill its form and send it."""
    found = page.locator(f"#{menu}")
    found.locator("summary").click()
    for name, text in fields.items():
        found.locator(f"[name={name}]").fill(text)
    found.locator("form button").click()


def running_job(installation: Installation) -> str:
    """Start a job that runs until it is stopped; returns its id."""
    result = installation.play(["look", 300], model=installation.model())
    installation.starts(result)
    return str(result.id)


def failed_job(installation: Installation, text: str = "as told") -> str:
    result = installation.play(["fail", "NotRetryable", text], model=installation.model())
    installation.becomes(result, "failed")
    return str(result.id)


def test_login_is_refused_and_accepted_and_ends(console: Console) -> None:
    with console.visit(path="jobs?queue=work") as page:
        expect(page).to_have_title(re.compile("Log in"))
        page.get_by_label("User").fill("otto")
        page.get_by_label("Password").fill("not the password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("User or password is wrong.")
        page.get_by_label("Password").fill(console.password)
        page.keyboard.press("Enter")
        # Where one wanted to go, with its filter.
        expect(page).to_have_url(f"{console.url}/console/jobs?queue=work")
        expect(page.locator(".who .name")).to_contain_text("otto operator")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_title(re.compile("Log in"))
        page.goto("jobs")
        expect(page).to_have_title(re.compile("Log in"))


def test_a_viewer_sees_everything_and_has_nothing_to_act_with(console: Console) -> None:
    job_id = running_job(console.installation)
    with console.visit("vera") as page:
        expect(page.locator("#queue-work")).to_be_visible()
        assert page.locator("main button, main summary.button").count() == 0
        page.goto(f"job?id={job_id}")
        expect(page.locator("#title .pill")).to_contain_text("Processing")
        assert page.locator("main button").count() == 0
        page.goto("jobs")
        assert page.locator("main input[type=checkbox]").count() == 0
    console.installation.work_queue.cancel_job(job_id)


def test_jobs_are_filtered_and_the_filter_is_in_the_address(console: Console) -> None:
    word = f"reason-{uuid.uuid4().hex}"
    job_id = failed_job(console.installation, word)
    with console.visit("vera", "jobs") as page:
        page.get_by_role("link", name="Failed", exact=True).click()
        page.get_by_label("Text").fill(word)
        page.get_by_label("Queue").select_option("work")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#jobs tbody tr")).to_have_count(1)
        expect(page.locator("#jobs tbody")).to_contain_text(word)
        address = page.url
        assert {f"text={word}", "status=FAILED", "queue=work"} <= set(
            address.partition("?")[2].split("&")
        )
        page.goto("audit")
        page.goto(address)
        expect(page.get_by_label("Text")).to_have_value(word)
        page.locator("#jobs tbody a.id").click()
        expect(page.locator("#job-id")).to_have_text(job_id)
        expect(page.locator("#error")).to_contain_text(word)
        expect(page.locator("#story")).to_contain_text("submitted")


def test_a_running_job_is_canceled_and_seen_to_end_and_resubmitted(console: Console) -> None:
    job_id = running_job(console.installation)
    with console.visit("otto", f"job?id={job_id}") as page:
        expect(page.locator("#title .pill")).to_contain_text("Processing")
        submit(page, "cancel", reason="not needed any more")
        expect(page.locator(".told")).to_contain_text(job_id)
        # Without a click: the page looks by itself.
        expect(page.locator("#title .pill")).to_contain_text("Canceled")
        expect(page.locator("#story")).to_contain_text("by user:otto@127.0.0.1")
        expect(page.locator("#story")).to_contain_text("not needed any more")
        submit(page, "resubmit")
        expect(page.locator("#title .pill")).to_contain_text("Processing")
        # What was done is undone from where it is told.
        page.locator(".told").get_by_role("button", name="Undo").click()
        expect(page.locator("#title .pill")).to_contain_text("Canceled")


def test_what_is_ticked_stays_ticked_and_is_done_after_a_preview(console: Console) -> None:
    word = f"bulk-{uuid.uuid4().hex}"
    with console.installation.held(model := console.installation.model()):
        waiting = [str(console.installation.play(["give", word], model=model).id) for _ in range(3)]
        failed = failed_job(console.installation, word)
        with console.visit("otto", f"jobs?text={word}") as page:
            for job_id in (waiting[0], waiting[2], failed):
                page.locator(f'[id="pick-{job_id}"]').check()
            page.locator(f'[id="pick-{waiting[0]}"]').focus()
            page.evaluate("window.scrollTo(0, 40)")
            page.evaluate("document.querySelector('#jobs').dataset.seen = 'before'")
            # The page is renewed: what the server does not say is gone then.
            expect(page.locator("#jobs")).not_to_have_attribute("data-seen", "before")
            expect(page.locator("#pick-count")).to_have_text("3 selected")
            assert page.evaluate("document.activeElement.id") == f"pick-{waiting[0]}"
            assert page.locator("#jobs input:checked").count() == 3
            page.get_by_role("button", name="Cancel…").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("Cancel 3 jobs?")
            page.get_by_label("Reason").fill("tidied up")
            page.get_by_role("button", name="Cancel 3 jobs").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("3 of 3 jobs canceled")
            page.get_by_role("button", name="Undo…").click()
            page.get_by_role("button", name="Resubmit 3 jobs").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("3 of 3 jobs resubmitted")
        console.installation.becomes(waiting[0], "waiting")

        def noted() -> None:
            """The recorder writes the log, a moment after the pages told it."""
            told = console.installation.work_queue.get_audit(event="canceled", job_id=waiting[0])
            assert [(one.who, one.why) for one in told] == [("user:otto@127.0.0.1", "tidied up")]

        eventually(noted)
        for job_id in waiting:
            console.installation.work_queue.cancel_job(job_id)


def test_a_pause_is_seen_in_a_second_browser_within_five_seconds(console: Console) -> None:
    with console.visit("vera") as second, console.visit("otto") as first:
        submit(first, "pause-training", reason="the disk is full")
        expect(first.locator(".told")).to_contain_text("Paused queue training.")
        row = second.locator("#queue-training")
        expect(row).to_contain_text("the disk is full", timeout=5000, use_inner_text=True)
        expect(row).to_contain_text("user:otto@127.0.0.1", use_inner_text=True)
        first.get_by_role("button", name="Resume training").click()
        expect(row).not_to_contain_text("the disk is full")


def test_a_job_of_a_killed_worker_is_seen_processing_then_waiting_then_processing(
    impatient: Console,
) -> None:
    installation = impatient.installation
    # One that has nothing to do with it notices that the lease has ended, as beat does elsewhere.
    bystander = installation.worker(queues=("training",), pool="solo", concurrency=1)
    with bystander, installation.worker(concurrency=1) as worker:
        result = installation.play(["look", 300], model=installation.model())
        installation.starts(result)
        with impatient.visit("vera", f"job?id={result.id}") as page:
            pill = page.locator("#title .pill").last
            expect(pill).to_contain_text("Processing")
            os.kill(worker.pid, signal.SIGKILL)
            expect(pill).to_contain_text("Pending")
            expect(page.locator("#why")).to_contain_text("no live worker", use_inner_text=True)
            with installation.worker(concurrency=1):
                expect(pill).to_contain_text("Processing")
                expect(page.locator("#facts")).to_contain_text("Lost with a worker1")
                expect(page.locator("#story")).to_contain_text("expired")
            installation.work_queue.cancel_job(str(result.id))


def test_a_workflow_is_executed_and_its_steps_are_followed(console: Console) -> None:
    model, gate = console.installation.model(), console.installation.gate()
    with console.visit("otto", "workflows") as page:
        expect(page.locator(".graph").first).to_contain_text("learn")
        page.locator('[id="execute-improve"] summary').click()
        page.get_by_label("model", exact=True).fill(model)
        page.get_by_label("gate", exact=True).fill(gate)
        page.get_by_role("button", name="Execute").click()
        steps = page.locator("#steps li")
        expect(steps.nth(0)).to_contain_text("Processing")
        expect(steps.nth(0)).to_have_attribute("aria-current", "step")
        expect(steps.nth(1)).to_contain_text("not yet")
        assert Axe().run(page, options=VIOLATIONS).violations_count == 0
        console.installation.open(gate)
        expect(steps.nth(1)).to_contain_text("Completed")
        expect(page.locator("#title .pill")).to_contain_text("Completed")
        expect(page.locator("#facts")).to_contain_text("user:otto@127.0.0.1")
        page.goto("workflows")
        expect(page.locator("#executions")).to_contain_text(model)


def test_everything_is_reached_with_the_keyboard(console: Console) -> None:
    with console.visit("otto") as page:
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        summary = page.locator("#pause-training summary")
        for _ in range(60):
            page.keyboard.press("Tab")
            if summary.evaluate("node => node === document.activeElement"):
                break
        expect(summary).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#pause-training [name=reason]")).to_be_focused()
        page.keyboard.type("half a sen")
        page.evaluate("document.querySelector('#queues').dataset.seen = 'before'")
        expect(page.locator("#queues")).not_to_have_attribute("data-seen", "before")
        # The table was renewed around the open form.
        page.keyboard.type("tence")
        expect(page.locator("#pause-training [name=reason]")).to_have_value("half a sentence")
        page.keyboard.press("Escape")
        expect(summary).to_be_focused()
        expect(page.locator("#pause-training [name=reason]")).to_be_hidden()


def test_updates_can_be_held(console: Console) -> None:
    with console.visit("vera") as page:
        live = page.get_by_role("button", name="Live")
        live.click()
        expect(page.get_by_role("button", name="Held")).to_have_attribute("aria-pressed", "false")
        page.evaluate("document.querySelector('#queues').dataset.seen = 'before'")
        page.get_by_role("button", name="Held").click()
        expect(page.locator("#queues")).not_to_have_attribute("data-seen", "before")


def test_a_phone_needs_no_scrolling_to_the_side(console: Console) -> None:
    job_id = failed_job(console.installation, f"{HOSTILE}{'x' * 400}")
    with console.visit("ada", viewport=PHONE, has_touch=True) as page:
        for path in (*PAGES, f"job?id={job_id}"):
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier(console: Console, scheme: str) -> None:
    installation = console.installation
    with installation.held(model := installation.model()):
        waiting = str(installation.play(["give", 1], model=model).id)
        failed, active = failed_job(installation), running_job(installation)
        installation.becomes(waiting, "waiting")
        axe, found = Axe(), dict[str, str]()
        # Nothing but colors differs in the dark.
        options = VIOLATIONS if scheme == "light" else {**VIOLATIONS, "runOnly": ["color-contrast"]}
        with console.visit("ada", color_scheme=scheme) as page:
            jobs = [f"job?id={one}" for one in (waiting, failed, active)]
            for path in (*PAGES, *jobs):
                page.goto(path)
                told = axe.run(page, options=options)
                if told.violations_count:
                    found[path] = told.generate_report()
            page.goto("")
            page.locator("#pause-work summary").click()
            told = axe.run(page, options=options)
            found |= {"menu": told.generate_report()} if told.violations_count else {}
        with console.visit(path="login", color_scheme=scheme) as page:
            told = axe.run(page, options=options)
            found |= {"login": told.generate_report()} if told.violations_count else {}
        for job_id in (waiting, active):
            installation.work_queue.cancel_job(job_id)
    assert found == {}


def test_names_and_arguments_are_shown_and_never_run(console: Console) -> None:
    # The test's own app names files after its jobs.
    job_id = f"{uuid.uuid4().hex}{HOSTILE}".replace("/", "")
    result = console.installation.task("play").apply_async(
        [["fail", "NotRetryable", HOSTILE]],
        {"model": f"m-{uuid.uuid4().hex[:6]}'\"><i>"},
        task_id=job_id,
        org="<b>acme</b>",
    )
    console.installation.becomes(result, "failed")
    with console.visit("otto", "jobs?status=FAILED") as page:
        expect(page.locator("#jobs")).to_contain_text("<script>document.title")
        page.locator("#jobs tbody tr", has_text="<b>acme</b>").locator("a.id").click()
        expect(page.locator("#job-id")).to_have_text(job_id)
        expect(page.locator("#error")).to_contain_text(HOSTILE)
        submit(page, "resubmit", reason=HOSTILE)
        expect(page.locator(".told")).to_contain_text(job_id)
        page.goto("")
        page.goto("audit")
        expect(page.locator("#audit")).to_contain_text(HOSTILE)
        assert "taken" not in page.title()
        assert page.locator("main script, main img, main i, main b").count() == 0


def test_an_open_page_says_when_it_is_not_up_to_date_and_recovers(console: Console) -> None:
    with console.visit("vera") as page:
        page.route("**/console/", lambda route: route.abort())
        expect(page.locator("#stale")).to_contain_text("Not up to date since")
        page.unroute("**/console/")
        expect(page.locator("#stale")).to_be_hidden()


def test_a_session_that_ended_leads_to_the_login(console: Console) -> None:
    with console.visit("otto", "jobs") as page:
        page.context.clear_cookies()
        expect(page).to_have_title(re.compile("Log in"))
        assert page.url.endswith("login?next=%2Fconsole%2Fjobs")


def test_the_log_tells_who_logged_in(console: Console) -> None:
    def noted() -> bool:
        found = console.installation.work_queue.get_audit(event="logged_in")
        return any(one.who == "user:otto@127.0.0.1" for one in found)

    with console.visit("otto", "audit?event=logged_in") as page:
        eventually(noted)
        expect(page.locator("#audit")).to_contain_text("user:otto@127.0.0.1")

"""The console of an installation in a real browser: the server and the worker are processes of their own.

A test file asks for the fixtures with ``pytest_plugins = ["tests.workers", "tests.console_site"]``.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from kombu.utils.json import dumps
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from coordinator.web.access import COOKIE
from coordinator.web.accounts import Accounts
from tests import celery_app
from tests.helpers import eventually, free_port, program, running

if TYPE_CHECKING:
    from tests.workers import Installation

#: Users and what they may do; all have one password.
USERS = {"vera": "viewer", "otto": "operator", "ada": "admin"}
PASSWORD = "a password for tests"

#: Milliseconds in which a page must show what is waited for: a refresh, on a machine with other work.
PATIENCE_MS = 30_000

WORKFLOW = """
name = "improve"
description = "Play, then learn from it."
required = ["model", "gate"]

[[steps]]
name = "play"
task = "play"
models = "{model}"
args = [["wait", "{gate}"], ["give", 3]]

[[steps]]
name = "learn"
task = "play"
models = "{model}"
args = [["give", "{play}"]]
"""

#: Nothing of the browser's own goes to the network.
ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--no-sandbox",
)


class Console:
    """A running ``coordinator web`` and a browser to look at it.

    Args:
        installation: whose.
        url: of the server.
        browser: to open pages with.
    """

    def __init__(self, installation: Installation, url: str, browser: Browser) -> None:
        self.installation, self.url, self.browser = installation, url, browser
        self.password = PASSWORD
        self.errors: list[str] = []
        self._cookies: dict[str, Any] = {}

    @contextmanager
    def visit(self, user: str = "", path: str = "", **options: Any) -> Iterator[Page]:
        """Open a page in a browser of its own.

        Args:
            user: who is logged in; "" is nobody.
            path: below ``/console/``.
            options: of the browser, such as ``color_scheme``.
        """
        context = self.browser.new_context(base_url=f"{self.url}/console/", **options)
        context.set_default_timeout(PATIENCE_MS)
        try:
            if user:
                self._log_in(context, user)
            page = context.new_page()
            # What the content policy stops is told here, and so is every error of a script.
            page.on("console", self._told)
            page.on("pageerror", lambda error: self.errors.append(str(error)))
            page.goto(path)
            yield page
        finally:
            context.close()

    def _told(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _log_in(self, context: BrowserContext, user: str) -> None:
        if user not in self._cookies:
            answer = context.request.post(
                f"{self.url}/session", data={"user": user, "password": PASSWORD}
            )
            assert answer.ok, answer.text()
            found = [one for one in context.cookies() if one.get("name") == COOKIE]
            self._cookies[user] = found
        context.add_cookies(self._cookies[user])


def chromium() -> str:
    """Return the system's Chromium; without one a test is skipped, or fails where it must not be."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return program(*names, package="chromium", required="REQUIRE_BROWSER")


# For one file: while it lives, its loop runs in this thread, and other files' tests run loops of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        own = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield own
        own.close()
    # The driver has ended, which its process object may not have heard of when its loop was closed: said here
    # and not at the end of all tests, where it would fail them.
    del own, playwright
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def serving(installation: Installation, browser: Browser) -> Iterator[Console]:
    """Serve the console of an installation, with users of each scope."""
    accounts = Accounts(installation.work_queue.store)
    for user, scope in USERS.items():
        accounts.add_user(user, PASSWORD, scope, by="test")
    port, log = free_port(), installation.folder / "web.log"
    env = {
        celery_app.BROKER: installation.broker,
        celery_app.FOLDER: str(installation.folder),
        celery_app.SETTINGS: dumps(installation.conf),
        "COORDINATOR_FLOWER_URL": "http://127.0.0.1:5555",
    }
    workflows = installation.folder / "workflows.toml"
    workflows.write_text(WORKFLOW)
    env["COORDINATOR_WORKFLOWS"] = str(workflows)
    words = ("-A", "tests.celery_app", "web", "--port", str(port))
    with running("python", "-m", "coordinator", *words, env=env, log=log) as process:
        own = Console(installation, f"http://127.0.0.1:{port}", browser)

        def lives() -> bool:
            assert process.poll() is None, log.read_text()
            return answers(f"{own.url}/live")

        eventually(lives, timeout=60, interval=0.2)
        yield own
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def console(shared: Installation, browser: Browser) -> Iterator[Console]:
    """The console of the installation that has a worker for the queue ``work``."""
    with serving(shared, browser) as own:
        yield own


@pytest.fixture
def impatient(alone: Installation, browser: Browser) -> Iterator[Console]:
    """The console of an installation whose leases are short, without a worker."""
    alone.conf["coordinator_lease_seconds"] = 4
    with serving(alone, browser) as own:
        yield own


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False

"""The HTTP API of an installation, called inside the test process; the Redis and the database are real.

A test file asks for the fixtures with ``pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from coordinator.web.accounts import Accounts
from coordinator.web.application import create

if TYPE_CHECKING:
    import httpx2
    from fastapi import FastAPI

    from tests.desk import Desk

SCOPES = ("viewer", "operator", "admin")


class Site:
    """The API, and one token of each scope.

    Args:
        desk: the installation.
        options: of ``create``.
    """

    def __init__(self, desk: Desk, **options: Any) -> None:
        self.desk = desk
        self.accounts = Accounts(desk.queue.store)
        self.tokens = {
            scope: self.accounts.create_token(f"a-{scope}", scope, by="test") for scope in SCOPES
        }
        self.app: FastAPI = create(desk.queue, desk.installation.app, **options)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def ask(self, method: str, path: str, scope: str = "admin", **options: Any) -> httpx2.Response:
        """Call with the token of a scope; "" is with none."""
        headers = dict(options.pop("headers", {}))
        if "content" in options:
            headers.setdefault("Content-Type", "application/json")
        if scope:
            headers["Authorization"] = f"Bearer {self.tokens[scope]}"
        return self.client.request(method, path, headers=headers, **options)

    def get(self, path: str, scope: str = "viewer", **params: Any) -> Any:
        """Return what a route shows."""
        response = self.ask("GET", path, scope, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def post(
        self, path: str, body: Any = None, status: int = 200, scope: str = "operator", **more: Any
    ) -> Any:
        """Act, and return what was answered."""
        response = self.ask("POST", path, scope, json=body, **more)
        assert response.status_code == status, response.text
        return response.json()


@pytest.fixture
def open_site() -> type[Site]:
    """For tests that set up the installation themselves."""
    return Site


@pytest.fixture
def site(desk: Desk) -> Iterator[Site]:
    own = Site(desk)
    with own.client:
        yield own

"""The tests of this folder run on servers of their own: see docs/testing.md."""

from __future__ import annotations

import pytest

pytest_plugins = ["coordinator.testing.plugin"]


@pytest.fixture(scope="session")
def coordinated_app_name() -> str:
    return "shop"

"""The HTTP API against its own OpenAPI document: whatever is sent, nothing is answered that it does not tell of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coordinator.web.application import document
from tests.test_web import MORE, ROUTES, routes

if TYPE_CHECKING:
    from tests.web_site import Site

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

#: A stream has no end; a login that is wrong often enough is refused whatever is sent.
LEFT_OUT = {"GET /events", "POST /session", "DELETE /session"}

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


#: Requests of each kind (that fit the document, and that do not) to each route.
EXAMPLES = 15


def send_many(site: Site, operation: Any, mode: schemathesis.GenerationMode) -> None:
    headers = {"Authorization": f"Bearer {site.tokens['admin']}"}

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.validate_response(case.call(headers=headers), checks=CHECKS)

    send()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_finds_an_error_of_the_server(site: Site) -> None:
    own = {"Authorization": f"Bearer {site.tokens['admin']}"}
    loaded = schemathesis.openapi.from_asgi("/openapi.json", site.app, headers=own)
    tried: set[str] = set()
    results: Any = loaded.get_all_operations()
    for result in results:
        operation = result.ok()
        name = f"{operation.method.upper()} {operation.path}"
        if name not in LEFT_OUT:
            told = document(site.app)["paths"][operation.path][operation.method]
            send_many(site, operation, schemathesis.GenerationMode.POSITIVE)
            # What takes nothing can be given nothing wrong.
            if "parameters" in told or "requestBody" in told:
                send_many(site, operation, schemathesis.GenerationMode.NEGATIVE)
            tried.add(name)
    assert tried == (routes(ROUTES) | routes(MORE)) - LEFT_OUT


texts = strategies.text(max_size=20)
values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | texts
    # What JSON can say and UTF-8 cannot.
    | strategies.just("\ud800"),
    lambda inner: (
        strategies.lists(inner, max_size=3) | strategies.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_may_say_anything_and_is_shown_again(site: Site) -> None:
    @hypothesis.settings(
        max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(
        args=strategies.lists(values, max_size=3),
        more=strategies.dictionaries(texts, values, max_size=3),
        org=strategies.none() | texts,
        models=strategies.none() | strategies.lists(texts, max_size=2),
    )
    def send(args: Any, more: Any, org: Any, models: Any) -> None:
        body = {**more, "task": "silent", "args": args, "org": org, "models": models}
        response = site.ask("POST", "/jobs", content=json.dumps(body))
        accepted.append(response.status_code == 202)
        if not accepted[-1]:
            assert (response.status_code, response.json()["status"]) == (422, 422), response.text
            return
        job_id = response.json()["job_id"]
        assert site.get(f"/jobs/{job_id}")["task"] == "silent"
        site.get(f"/jobs/{job_id}/why")
        site.get(f"/jobs/{job_id}/events")

    accepted: list[bool] = []
    send()
    site.desk.record()
    site.get("/status")
    assert len(site.get("/jobs", limit=1000)["jobs"]) == sum(accepted)
    # Both happen, or the test would show nothing.
    assert 5 < sum(accepted) < len(accepted)

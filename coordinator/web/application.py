"""The app that a server runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware

from coordinator.recovery.roster import versions
from coordinator.web import (
    events,
    jobs,
    metrics,
    orgs,
    panic,
    problems,
    queues,
    sessions,
    status,
    workflows,
)
from coordinator.web.access import COOKIE, Access
from coordinator.web.bounds import BODY_BYTES, Bodies
from coordinator.web.feed import Feed
from coordinator.web.headers import API, Headers
from coordinator.web.pages import console
from coordinator.web.threads import Threads
from coordinator.web.visits import COMMON, LOOKING, Guarded, Service

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")

#: Seconds for one request: longer than the ledger tries to reach Redis, and than SQLite's lock is waited for.
SECONDS = 15.0

DESCRIPTION = """Jobs and queues of one installation. Every answer is JSON; every error is a problem (RFC 9457).

Who calls shows a bearer token (`coordinator web token create`) or has a session (`POST /session`). A **viewer** looks,
an **operator** acts on jobs and queues, an **admin** also changes limits. Who did what, and where from, is in the log.
When Redis or the database is away the answer is 503 with `Retry-After`."""

router = APIRouter(route_class=Guarded, responses=COMMON)


@router.get("/openapi.json", include_in_schema=False, dependencies=[LOOKING])
async def openapi(request: Request) -> JSONResponse:
    """Return what this API is."""
    return JSONResponse(request.app.openapi())


def create(
    queue: WorkQueue, celery: Any, *, seconds: float = SECONDS, body_bytes: int = BODY_BYTES
) -> FastAPI:
    """Return the app.

    Args:
        queue: the work queue.
        celery: the coordinated Celery app that jobs are submitted to.
        seconds: for one request.
        body_bytes: of one request.
    """
    # A worker does this when it starts: only then the tasks of `imports` are known.
    celery.loader.import_default_modules()
    threads = Threads(seconds)
    feed = Feed(queue, threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        feed.close()
        threads.close()

    app = Documented(
        title="Coordinator",
        version=versions().get("celery-coordinator", "unknown"),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Headers, pairs=API), Middleware(Bodies, most=body_bytes)],
    )
    app.state.service = Service(queue, celery, threads, Access(lambda: queue.store), feed)
    problems.install(app)
    for module in (jobs, queues, workflows, status, metrics, orgs, panic, sessions, events):
        app.include_router(module.router)
    for public in (status.public, sessions.public):
        app.include_router(public)
    app.include_router(router)
    console.install(app, app.state.service)
    return app


class Documented(FastAPI):
    """An app whose document says which problems its routes answer, and who is asked for what."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self)
        return self.openapi_schema


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    parts = found["components"]
    for own in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(own, None)
    schema = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts["schemas"] |= {**schema.pop("$defs"), "Problem": schema}
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    found["security"] = [{"token": []}, {"session": []}]
    found["paths"]["/live"]["get"]["security"] = []
    found["paths"]["/session"]["post"]["security"] = []
    return found

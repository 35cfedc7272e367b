"""The console's app, beside the API in the same server."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from coordinator.errors import CoordinatorError
from coordinator.web.headers import PAGES, Headers
from coordinator.web.pages import (
    actions,
    audit,
    bulk,
    entry,
    frame,
    jobs,
    models,
    operations,
    switches,
    trends,
    workflows,
)
from coordinator.web.pages.recent import Recent
from coordinator.web.pages.words import HOME
from coordinator.web.problems import Failed, failure_of
from coordinator.web.visits import Service

logger = logging.getLogger("coordinator")

#: What has pages, or forms.
MODULES = (operations, jobs, actions, bulk, switches, trends, models, workflows, audit, entry)

#: A file's address changes with its content, so it is asked for once.
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


def create(service: Service) -> FastAPI:
    """Return the app of the pages.

    Args:
        service: what they share with the API.
    """
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Headers, pairs=PAGES)],
    )
    app.state.service = service
    app.state.recent = Recent()
    for module in MODULES:
        app.include_router(module.router)
    app.include_router(entry.public)
    app.get("/static/{name}")(static)
    _failures(app)
    return app


def install(app: FastAPI, service: Service) -> None:
    """Add the pages to an app.

    Args:
        app: the API's.
        service: what they share.
    """
    pages = create(service)
    app.state.recent = pages.state.recent
    app.mount(HOME.rstrip("/"), pages)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(HOME)


async def static(name: str) -> Response:
    """Return a file that pages load; the login needs them too."""
    found = frame.assets().get(name)
    if found is None:
        raise Failed(404, "there is no such file")
    return Response(found.content, media_type=found.kind, headers=_FOR_EVER)


def _failures(app: FastAPI) -> None:
    @app.exception_handler(CoordinatorError)
    async def _coordinator(request: Request, error: CoordinatorError) -> Response:
        return frame.failed(request, failure_of(error))

    @app.exception_handler(Failed)
    async def _failed(request: Request, error: Failed) -> Response:
        return frame.failed(request, error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return frame.failed(request, Failed(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(Exception)
    async def _bug(request: Request, _error: Exception) -> Response:
        # The server logs the traceback.
        return frame.failed(request, Failed(500, "an error of the server: its log says more"))

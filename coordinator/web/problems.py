"""Errors as problem details (RFC 9457): what went wrong, and what to do next."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from coordinator.errors import (
    CoordinatorError,
    InvalidSetting,
    InvalidValue,
    LedgerClosed,
    LedgerFull,
    LedgerUnavailable,
    Refused,
    StoreUnavailable,
    Unknown,
)
from coordinator.store import RowRefused

logger = logging.getLogger("coordinator")

MEDIA_TYPE = "application/problem+json"

#: Seconds after which a client should try again when Redis or the database is away, or Redis is full.
AWAY_SECONDS, FULL_SECONDS = 5, 30


class Wrong(BaseModel):
    """A field that cannot be accepted."""

    field: str
    message: str


class Problem(BaseModel):
    """Why a request was not done (RFC 9457)."""

    type: str = Field(default="about:blank", description="A name for this kind of problem")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no job 'x' is known: it never was, or ended and was pruned"])
    errors: list[Wrong] = Field(
        default=[], description="The fields that cannot be accepted, if it is about fields"
    )


class Failed(Exception):
    """A request that is not done, for a reason of HTTP's own.

    Args:
        status: of the answer.
        detail: for people.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Wrong] = (),
) -> JSONResponse:
    """Return the answer that tells a problem."""
    title = http.HTTPStatus(status).phrase
    content = Problem(
        type="about:blank", title=title, status=status, detail=detail, errors=list(errors)
    )
    return JSONResponse(content.model_dump(), status, dict(headers or {}), media_type=MEDIA_TYPE)


def failure_of(error: CoordinatorError) -> Failed:
    """Return how an error of the work queue is told over HTTP."""
    text = str(error)
    match error:
        case LedgerFull():
            return Failed(503, text, _later(FULL_SECONDS))
        case LedgerUnavailable() | LedgerClosed() | StoreUnavailable():
            return Failed(503, text, _later(AWAY_SECONDS))
        case Unknown():
            return Failed(404, text)
        case InvalidValue() if not isinstance(error, InvalidSetting):
            return Failed(422, text)
        case RowRefused():
            return Failed(422, text)
        case Refused():
            return Failed(409, text)
        case _:
            logger.error("[COORDINATOR] HTTP: %s", text)
            return Failed(500, "this installation is not set up rightly: see its log")


def answer_to(error: CoordinatorError) -> JSONResponse:
    """Return the answer to an error of the work queue."""
    told = failure_of(error)
    wrong = []
    if isinstance(error, InvalidValue) and told.status == 422:
        wrong.append(Wrong(field=error.field, message=told.detail))
    return problem(told.status, told.detail, told.headers, wrong)


def install(app: FastAPI) -> None:
    """Have every error of an app answered as a problem."""

    # Starlette hands each the kind of error it was registered for; the types of its handlers are wider.
    @app.exception_handler(CoordinatorError)
    async def _coordinator(_request: Request, error: CoordinatorError) -> JSONResponse:
        return answer_to(error)

    @app.exception_handler(Failed)
    async def _failed(_request: Request, error: Failed) -> JSONResponse:
        return problem(error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "")
        if any(one["loc"] == ("body",) for one in error.errors()) and "json" not in kind:
            # Also what keeps the forms of other sites out.
            return problem(415, "a body is JSON, and says so: Content-Type: application/json")
        wrong = [
            Wrong(field=".".join(str(part) for part in one["loc"][1:]), message=one["msg"])
            for one in error.errors()
        ]
        shown = "; ".join(f"{one.field or 'body'}: {one.message}" for one in wrong)
        return problem(422, shown, errors=wrong)

    @app.exception_handler(RecursionError)
    async def _nested(_request: Request, _error: RecursionError) -> JSONResponse:
        return problem(422, "the body is nested too deeply")

    @app.exception_handler(Exception)
    async def _bug(_request: Request, _error: Exception) -> JSONResponse:
        # The traceback is logged by the server; what is in it is nobody else's business.
        return problem(500, "an error of the server: its log says more")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of the problems that a route may answer."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted(statuses)
    }


def _later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}

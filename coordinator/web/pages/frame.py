"""How a page comes about: its template, what all pages show, and what was done a moment ago."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from coordinator.recovery.roster import versions
from coordinator.web.pages import words
from coordinator.web.pages.recent import Recent
from coordinator.web.pages.words import HOME
from coordinator.web.problems import Failed
from coordinator.web.visits import Service, Visit

#: Seconds between two looks of an open page.
REFRESH = 3

#: Pages by their path, in the order of the menu.
MENU = (
    ("", "Operations"),
    ("jobs", "Jobs"),
    ("trends", "Trends"),
    ("models", "Models"),
    ("workflows", "Workflows"),
    ("audit", "Audit"),
)

_TOLD = "coordinator_told"
_TOLD_SECONDS = 20

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Told:
    """What was done a moment ago.

    Attributes:
        text: in words.
        undo: the path of the form that takes it back, "" when there is none.
        fields: of that form.
    """

    text: str
    undo: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load, and the address that changes with its content."""

    content: bytes
    kind: str
    url: str


@cache
def assets() -> dict[str, Asset]:
    """Return the files that pages load, by name."""
    found = {}
    for entry in (resources.files("coordinator.web") / "static").iterdir():
        kind = _TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if kind is not None:
            content = entry.read_bytes()
            mark = hashlib.sha256(content).hexdigest()[:12]
            url = f"{HOME}static/{entry.name}?v={mark}"
            found[entry.name] = Asset(content, kind, url)
    return found


@cache
def _templates() -> Environment:
    # Everything is escaped, and a name that is misspelt is an error and no empty place.
    templates = Environment(
        loader=PackageLoader("coordinator.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(words.FILTERS)
    templates.globals |= {
        "address": words.address,
        "duration": words.span,
        "home": HOME,
        "menu": MENU,
        "number": words.number,
    }
    return templates


def page(name: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page that anybody may see.

    Args:
        name: of the template.
        status: of the answer.
        context: what it shows.
    """
    now = time.time()
    given = {
        "asset": lambda file: assets()[file].url,
        "ago": lambda at: words.ago(at, now),
        "visitor": None,
        "flower": None,
        "now": now,
        "refresh": 0,
        "told": None,
        "version": versions().get("celery-coordinator", "unknown"),
    }
    return HTMLResponse(_templates().get_template(name).render({**given, **context}), status)


def show(visit: Visit, request: Request, name: str, **context: Any) -> HTMLResponse:
    """Return a page for somebody who is logged in.

    Args:
        visit, request: who asks, and for what.
        name: of the template.
        context: what it shows.
    """
    given: dict[str, Any] = {
        "visitor": visit.caller,
        "may": visit.caller.may,
        "flower": visit.service.queue.settings.flower_url,
        "here": here(request),
        "refresh": REFRESH,
        "told": _told(request),
    }
    response = page(name, **{**given, **context})
    # A look of the script does not show it, so it does not use it up.
    if given["told"] is not None and not refreshes(request):
        response.delete_cookie(_TOLD, path=HOME, httponly=True, samesite="strict")
    return response


def refreshes(request: Request) -> bool:
    """Whether it is the script of an open page that asks again."""
    return "x-refresh" in request.headers


def recent(request: Request) -> Recent:
    """Return what was read a moment ago."""
    found: Recent = request.app.state.recent
    return found


def here(request: Request) -> str:
    """Return the address of a page, to come back to."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def inside(path: str | None) -> str:
    """Return a path of the console, its first page for any other: nobody is sent to another site."""
    if path and path.startswith(HOME) and "\\" not in path and path.isprintable():
        return path
    return HOME


def back(to: str | None, told: Told | None = None) -> Response:
    """Return to a page, and have it say what was done.

    Args:
        to: the page's address.
        told: what to say.
    """
    response = RedirectResponse(inside(to), 303)
    if told is not None:
        text = base64.urlsafe_b64encode(json.dumps(asdict(told)).encode()).decode()
        response.set_cookie(
            _TOLD, text, max_age=_TOLD_SECONDS, path=HOME, httponly=True, samesite="strict"
        )
    return response


def failed(request: Request, error: Failed) -> Response:
    """Return the page of what was not done, or the login when nobody is logged in."""
    if error.status == 401 and not refreshes(request):
        to = here(request) if request.method == "GET" else HOME
        return RedirectResponse(words.address(f"{HOME}login", next=inside(to)), 303)
    service: Service = request.app.state.service
    caller = getattr(request.state, "caller", None)
    form = getattr(request.state, "form", None)
    response = page(
        "error.html",
        error.status,
        visitor=caller,
        flower=service.queue.settings.flower_url if caller else None,
        here=HOME,
        code=error.status,
        detail=error.detail,
        to=inside(form.text("back") if form else None),
    )
    response.headers.update(error.headers)
    return response


def _told(request: Request) -> Told | None:
    text = request.cookies.get(_TOLD)
    if not text:
        return None
    try:
        return Told(**json.loads(base64.urlsafe_b64decode(text)))
    except (ValueError, TypeError):
        # Not one of ours: nothing is shown rather than somebody else's words.
        return None

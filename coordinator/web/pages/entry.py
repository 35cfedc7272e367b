"""Log in, log out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.web import sessions
from coordinator.web.access import COOKIE
from coordinator.web.pages.forms import Paged, form_of
from coordinator.web.pages.frame import back, inside, page
from coordinator.web.pages.words import HOME
from coordinator.web.problems import Failed
from coordinator.web.visits import Service, Viewing

router = APIRouter(route_class=Paged)
public = APIRouter()


@public.get("/login")
async def login(request: Request) -> Response:
    """Show the form to log in with."""
    return _form(request.query_params.get("next"))


@public.post("/login")
async def enter(request: Request) -> Response:
    """Log in, and go on to the page that was asked for."""
    form = await form_of(request)
    service: Service = request.app.state.service
    user, password = form.text("user") or "", next(iter(form.all("password")), "")
    host = request.client.host if request.client else "unknown"
    try:
        _, secret = await service.threads.run(lambda: service.access.login(user, password, host))
    except Failed as error:
        said = "User or password is wrong." if error.status == 401 else f"{error.detail}."
        response = _form(form.text("next"), user, said, error.status)
        response.headers.update(error.headers)
        return response
    response = back(form.text("next"))
    sessions.keep(response, secret, request)
    return response


@router.post("/logout")
async def leave(request: Request, visit: Viewing) -> Response:
    """End the session."""
    secret = request.cookies[COOKIE]
    await visit.service.threads.run(lambda: visit.service.access.logout(visit.caller, secret))
    response = back(f"{HOME}login")
    sessions.forget(response)
    return response


def _form(to: str | None, user: str = "", wrong: str = "", status: int = 200) -> Response:
    return page("login.html", status, to=inside(to), user=user, wrong=wrong)

"""Routes of sessions: log in, who am I, log out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from coordinator.web.access import AGE_MS, COOKIE
from coordinator.web.bodies import Login, Who
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Service, Viewing, blocking

router = APIRouter(route_class=Guarded, tags=["session"], responses=COMMON)
public = APIRouter(tags=["session"])


@public.post("/session", response_model=Who, responses=responses(400, 401, 413, 415, 422, 429, 503))
async def login(body: Login, request: Request, response: Response) -> Who:
    """Log in with a user's name and password; the session is a cookie that scripts of a page cannot read."""
    service: Service = request.app.state.service
    host = request.client.host if request.client else "unknown"
    caller, secret = await service.threads.run(
        lambda: service.access.login(body.user, body.password, host)
    )
    keep(response, secret, request)
    return Who(name=caller.name, kind=caller.kind, scope=caller.scope, csrf_token=caller.csrf)


@router.get("/session", response_model=Who)
@blocking
def who(visit: Viewing) -> Who:
    """Tell who calls, by token or session."""
    caller = visit.caller
    return Who(name=caller.name, kind=caller.kind, scope=caller.scope, csrf_token=caller.csrf)


@router.delete("/session", status_code=204, response_class=Response)
async def logout(request: Request, visit: Viewing) -> Response:
    """End the session; a token stays what it is."""
    response = Response(status_code=204)
    if secret := request.cookies.get(COOKIE):
        service = visit.service
        await service.threads.run(lambda: service.access.logout(visit.caller, secret))
        forget(response)
    return response


def keep(response: Response, secret: str, request: Request) -> None:
    """Have the browser keep a session, out of reach of scripts and of other sites."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=AGE_MS // 1000,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def forget(response: Response) -> None:
    """Have the browser forget its session."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")

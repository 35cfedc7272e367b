"""A request on its way to the work queue: who makes it, whether it was made before, and the thread it runs in."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, cast

from fastapi import Depends, Header, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute

from coordinator.errors import InvalidValue, Refused, Unknown
from coordinator.web.access import Access, Caller, Card
from coordinator.web.problems import Failed, responses
from coordinator.web.threads import Threads

if TYPE_CHECKING:
    from coordinator.web.feed import Feed
    from coordinator.work_queue import WorkQueue

Parameters = ParamSpec("Parameters")

#: What any route may answer besides what it is for.
COMMON = responses(400, 401, 403, 413, 415, 422, 429, 503)


@dataclass(frozen=True)
class Service:
    """What all requests share; ``app.state.service``."""

    queue: WorkQueue
    celery: Any
    threads: Threads
    access: Access
    feed: Feed


@dataclass(frozen=True, slots=True)
class Visit:
    """One request.

    Attributes:
        service, caller: see there.
        key, request: what its caller calls it, and its fingerprint.
        nonce: with a key: an id that belongs to this key for ever.
    """

    service: Service
    caller: Caller
    key: str | None = None
    request: str = ""
    nonce: str | None = None

    @property
    def records(self) -> WorkQueue:
        """The work queue for what the database alone can answer, with Redis away too."""
        return self.service.queue

    @property
    def queue(self) -> WorkQueue:
        """The work queue, its ledger open: one that Redis has forgotten would be shown as empty.

        Raises:
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        self.service.queue.wait_until_open()
        return self.service.queue

    @property
    def by(self) -> str:
        return self.caller.by

    def until_ms(self, seconds: float | None) -> int | None:
        """Return when so many seconds from now are over (Unix milliseconds); None for None."""
        return None if seconds is None else self.queue.ledger.clock() + int(seconds * 1000)


class Guarded(APIRoute):
    """A route for known callers only: who calls is asked before the body is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            service: Service = request.app.state.service
            card = Card.of(request)
            request.state.caller = await service.threads.run(lambda: service.access.identify(card))
            return await handle(request)

        return guarded


def _visit(request: Request, scope: str) -> Visit:
    caller: Caller = request.state.caller
    if not caller.may(scope):
        raise Failed(403, f"{caller.identity} is {caller.scope}: this needs {scope}")
    return Visit(request.app.state.service, caller)


async def _view(request: Request) -> Visit:
    return _visit(request, "viewer")


async def _rule(request: Request) -> Visit:
    return _visit(request, "admin")


async def _operate(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="A name of your own for this request. Sent again within a day with the same body it is "
            "done once, and answered the same; with another body it is refused.",
        ),
    ] = None,
) -> Visit:
    visit = _visit(request, "operator")
    if key is None:
        return visit
    said = [request.method, request.url.path, request.url.query, (await request.body()).hex()]
    return replace(visit, key=key, request=hashlib.sha256("\n".join(said).encode()).hexdigest())


#: For a route that anybody may see who is known, and that needs nothing else of them.
LOOKING = Depends(_view)

#: A parameter of a route: who looks, who acts on jobs and queues, who changes what holds for all.
Viewing = Annotated[Visit, Depends(_view)]
Operating = Annotated[Visit, Depends(_operate)]
Ruling = Annotated[Visit, Depends(_rule)]


def blocking(handler: Callable[Parameters, Any]) -> Callable[Parameters, Awaitable[Any]]:
    """Run a handler in a thread. It takes its ``Visit`` as ``visit``."""

    @functools.wraps(handler)
    async def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
        visit = cast("Visit", kwargs["visit"])
        return await visit.service.threads.run(functools.partial(handler, *args, **kwargs))

    return run


def once(status: int = 200) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a handler's answer kept under the caller's key, and given again when the request is made again.

    A request that was cut off half-way is done again: what handlers do is safe to repeat, and what they make bears the
    nonce of the key.

    Args:
        status: of the answer.
    """

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def run(*, visit: Visit, **kwargs: Any) -> Any:
            if visit.key is None:
                return handler(visit=visit, **kwargs)
            store, who = visit.records.store, visit.caller.identity
            known = store.reserve_answer(who, visit.key, visit.request)
            if known.request != visit.request:
                raise Failed(422, f"Idempotency-Key {visit.key!r} was used for another request")
            if known.status is None:
                try:
                    told = handler(visit=replace(visit, nonce=known.nonce), **kwargs)
                except (InvalidValue, Refused, Unknown):
                    # Nothing was done, and what is sent next under this key may be the corrected request.
                    store.forget_answer(who, visit.key)
                    raise
                body = json.dumps(jsonable_encoder(told))
                known = store.keep_answer(who, visit.key, status, body)
            return Response(known.body, known.status or status, media_type="application/json")

        return run

    return decorate

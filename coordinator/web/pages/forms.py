"""What a form sends, and the route that takes it from nobody but the pages of the session itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from coordinator.durations import parse_duration
from coordinator.errors import InvalidValue
from coordinator.web.access import Card
from coordinator.web.problems import Failed
from coordinator.web.visits import Service

#: The field of every form that shows it is of this session's pages.
CSRF = "csrf"

_FORM = "application/x-www-form-urlencoded"
_FIELDS, _LONGEST = 2000, 2000


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form; one that is left empty was not given."""

    fields: dict[str, list[str]] = field(default_factory=dict)

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.fields.get(name, ()))

    def text(self, name: str) -> str | None:
        """Return what a field says, None when it is empty.

        Raises:
            InvalidValue: it is too long.
        """
        said = next(iter(self.all(name)), "").strip()
        if len(said) > _LONGEST:
            raise InvalidValue(name, "(too long)", f"a text of up to {_LONGEST} characters")
        return said or None

    def needed(self, name: str) -> str:
        """Return what a field says.

        Raises:
            InvalidValue: nothing.
        """
        said = self.text(name)
        if said is None:
            raise InvalidValue(name, "", "given")
        return said

    def seconds(self, name: str) -> float | None:
        """Return a duration such as ``2h`` in seconds, None when it is empty.

        Raises:
            InvalidValue: it is none.
        """
        said = self.text(name)
        return None if said is None else parse_duration(name, said)


async def form_of(request: Request) -> Form:
    """Return the form that a request brings.

    Raises:
        Failed: 403 when another site sent it, 415 when it is no form, 400 when it cannot be read.
    """
    # Told by the browser, which no page can make it lie about; older ones do not tell.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Failed(403, "this form was sent by another site")
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        raise Failed(415, f"a form is sent as {_FORM}")
    try:
        text = (await request.body()).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError:
        raise Failed(400, "the form cannot be read") from None
    form = Form()
    for name, said in pairs:
        form.fields.setdefault(name, []).append(said)
    return form


class Paged(APIRoute):
    """A page or form for those who are logged in; scripts with tokens have the API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            service: Service = request.app.state.service
            card = replace(Card.of(request), authorization="")
            form = Form() if card.safe else await form_of(request)
            card = replace(card, csrf=form.text(CSRF) or "")
            request.state.form = form
            request.state.caller = await service.threads.run(lambda: service.access.identify(card))
            answer = await handle(request)
            if not card.safe:
                request.app.state.recent.forget()
            return answer

        return guarded


def _sent(request: Request) -> Form:
    form: Form = request.state.form
    return form


#: A parameter of a route: the form that was sent.
Sent = Annotated[Form, Depends(_sent)]

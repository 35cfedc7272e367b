"""What every answer says besides its content."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Pairs = Sequence[tuple[bytes, bytes]]

#: For its caller alone, and nothing but what it says it is.
_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

#: An answer of the API shows nothing.
API: Pairs = (*_ALWAYS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: A page shows what comes from here, in files: a script or a style that is written into it is never run.
PAGES: Pairs = (
    *_ALWAYS,
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
)


class Headers:
    """Adds what an answer does not say by itself.

    Args:
        app: what answers.
        pairs: what is added.
    """

    def __init__(self, app: ASGIApp, pairs: Pairs = API) -> None:
        self.app, self.pairs = app, pairs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                more = (pair for pair in self.pairs if pair[0] not in known)
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, sending)

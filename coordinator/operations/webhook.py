"""Posts alerts to a webhook; imported by those that have one to post, not by every worker and producer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

#: Seconds that one call may take.
CALL_SECONDS = 2.0


def post(url: str, body: dict[str, Any]) -> str | None:
    """Post JSON; return what went wrong, or None.

    Args:
        url: http or https.
        body: what is posted.
    """
    try:
        with _opener().open(url, json.dumps(body).encode(), CALL_SECONDS) as answer:
            answer.read(1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Json(urllib.request.BaseHandler):
    #: Before the handler that would call it a form.
    handler_order = 100

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        request.add_header("Content-Type", "application/json")
        return request

    https_request = http_request


def _opener() -> urllib.request.OpenerDirector:
    # Not urlopen, which would read a file as readily: here are no handlers of other schemes.
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Json,
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener

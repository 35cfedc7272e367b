"""The Celery message of a job, opened and closed again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery.utils.saferepr import saferepr
from kombu.compression import decompress
from kombu.serialization import dumps, loads, prepare_accept_content, registry

from coordinator.jobs import Job
from coordinator.messages.needs import said
from coordinator.messages.transport import OPTIONS_HEADER, job_of


def opened(app: Any, payload: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], Any]:
    """Return arguments, keyword arguments and canvas of a message as Kombu keeps it.

    Args:
        app: the Celery app; what it does not accept is not read.
        payload: the message, its JSON parsed.

    Raises:
        kombu.exceptions.ContentDisallowed, DecodeError: it is written in a way the app does not accept.
    """
    body = payload["body"]
    if payload["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    if payload["headers"].get("compression"):
        body = decompress(body, payload["headers"]["compression"])
    accept = prepare_accept_content(app.conf.accept_content)
    args, kwargs, embed = loads(
        body, payload["content-type"], payload["content-encoding"], accept=accept
    )
    return list(args), dict(kwargs), embed


def rewritten(
    app: Any, job: Job, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> Job:
    """Return a job with other arguments, and with the needs that follow from them.

    Args:
        app: the Celery app.
        job: as it was.
        args: its positional arguments from now on; None leaves them.
        kwargs: keyword arguments that are added or replaced; None leaves them.

    Raises:
        InvalidValue: the new arguments lead to a name that cannot be one.
    """
    payload = json.loads(job.message + "}}")
    headers, properties = payload["headers"], payload["properties"]
    old_args, old_kwargs, embed = opened(app, payload)
    new_args = old_args if args is None else list(args)
    new_kwargs = old_kwargs if kwargs is None else {**old_kwargs, **kwargs}
    coordination, before = app.coordination, headers[OPTIONS_HEADER]
    described = coordination.describe(job.task, new_args, new_kwargs, said(before)) or {}
    if before.get("priority") is not None:
        described["priority"] = before["priority"]
    headers[OPTIONS_HEADER] = described
    headers["argsrepr"] = saferepr(new_args, app.amqp.argsrepr_maxsize)
    headers["kwargsrepr"] = saferepr(new_kwargs, app.amqp.kwargsrepr_maxsize)
    headers.pop("compression", None)
    serializer = registry.type_to_name[payload["content-type"]]
    content_type, encoding, body = dumps((new_args, new_kwargs, embed), serializer)
    payload["content-type"], payload["content-encoding"] = content_type, encoding
    raw = body if isinstance(body, bytes) else body.encode()
    payload["body"], properties["body_encoding"] = base64.b64encode(raw).decode(), "base64"
    settings = coordination.settings
    new = job_of(payload, job.queue, settings.queue(job.queue).timeout, settings.redact)
    return replace(
        new,
        owner=job.owner,
        priority=job.priority,
        max_retries=job.max_retries,
        retries=job.retries,
        submitted_ms=job.submitted_ms,
    )

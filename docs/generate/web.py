"""The reference page of the HTTP API, made from its OpenAPI document."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery

from coordinator import coordinate
from coordinator.web.application import create, document
from docs.generate import FOLDER

PAGE = FOLDER / "api.md"

INTRODUCTION = """# HTTP API

`coordinator web` serves it on port 8770; it is part of `coordinator up` where the extra `web` is installed. Its OpenAPI
document is at `/openapi.json`.

```text
TOKEN=$(coordinator web token create ci --scope operator)
curl http://127.0.0.1:8770/jobs -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\
  -d '{"task": "tasks.training.train", "model": "tic-tac-toe"}'
```

- Who calls shows a bearer token, or has a session (`POST /session` with a user's name and password; then what changes
  something also bears the header `X-CSRF-Token`). Only `GET /live` and the login ask nobody who they are.
- A *viewer* looks; an *operator* also acts on jobs and queues (`POST`); an *admin* also changes limits and panic
  (`PUT`, `DELETE`). Who did what, from which host, is in the log: `token:ci@10.0.0.7`.
- Every error is a problem (RFC 9457, `application/problem+json`): 401 nobody known, 403 not allowed, 404 not there,
  409 not possible now, 413 too large, 400 or 415 not JSON, 422 not acceptable (`errors` names the fields), 429
  too many wrong tokens or passwords, 503 Redis or the database is away (`Retry-After` says when to try again).
- A `POST` with the header `Idempotency-Key` is done once: sent again within a day with the same body it has the same
  answer.
- Lists that may be long come in pages: pass `next_cursor` as `cursor` until it is null.
- Moments are Unix seconds; names that end in `_ms` are milliseconds. Fields may be added; what is here stays.

This page is made from the OpenAPI document: `make docs`.
"""


def api() -> dict[str, Any]:
    """Return the OpenAPI document, of an app that is connected to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        celery = Celery("reference", broker="redis://127.0.0.1:1/0", set_as_current=False)
        celery.conf.update(
            coordinator_data_dir=folder,
            coordinator_database_url=f"sqlite:///{Path(folder)}/jobs.db",
        )
        coordinate(celery)
        return document(create(celery.coordination.work_queue, celery))


def reference() -> str:
    """Return the page."""
    found = api()
    parts = [INTRODUCTION]
    for path, methods in found["paths"].items():
        for method, told in methods.items():
            parts.append("\n".join(_route(found, f"{method.upper()} {path}", told)))
    parts.append("## Records\n\nWhat the answers consist of.\n")
    parts += [
        f"- **{name}**: {_fields(found, schema)}"
        for name, schema in sorted(found["components"]["schemas"].items())
        if name in _within(found)
    ]
    return "\n".join(parts) + "\n"


def _within(found: dict[str, Any]) -> set[str]:
    """Return the names of the objects that are in other objects."""
    text = json.dumps(found["components"]["schemas"])
    return set(re.findall(r'"#/components/schemas/(\w+)"', text)) - {"JsonValue"}


def _route(found: dict[str, Any], title: str, told: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n\n{' '.join(told['description'].split())}\n"
    for one in told.get("parameters", []):
        about = one.get("description") or one["schema"].get("description") or ""
        needed = ", needed" if one.get("required") and one["in"] != "path" else ""
        line = f"- `{one['name']}` ({one['in']}{needed}, {_type(one['schema'])}) {about}"
        yield line.rstrip()
    if "requestBody" in told:
        (content,) = told["requestBody"]["content"].values()
        schema = _resolved(found, content["schema"])
        yield f"\nBody: {_fields(found, schema)}"
        for example in schema.get("examples", []):
            yield f"\n```json\n{json.dumps(example)}\n```"
    for status, answer in told["responses"].items():
        if status.startswith("2"):
            kinds = answer.get("content", {})
            content = kinds.get("application/json")
            shown = " or ".join(kinds) or "nothing"
            if content:
                shown = _fields(found, _resolved(found, content["schema"]))
            if "text/event-stream" in answer.get("content", {}):
                shown = answer["description"]
            yield f"\nAnswers {status}: {shown}\n"


def _resolved(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for one in schema.get("anyOf", [schema]):
        if "$ref" in one:
            part: dict[str, Any] = found["components"]["schemas"][one["$ref"].rpartition("/")[2]]
            return part
    return schema


def _fields(found: dict[str, Any], schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"a list of objects: {_fields(found, _resolved(found, schema['items']))}"
    needed = schema.get("required", [])
    return ", ".join(
        f"`{name}` {_type(one)}{'' if name in needed else '?'}"
        for name, one in schema.get("properties", {}).items()
    )


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " or ".join(str(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))

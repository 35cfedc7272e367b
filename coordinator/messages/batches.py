"""Batch files: many jobs as variants of one, in JSON.

``{"base": {"task": "tasks.training.train", "kwargs": {"epochs": 10}}, "variants": [{"kwargs": {"model": "a"}}]}``:
each variant is the base with its own fields; ``kwargs`` are merged, everything else is replaced. ``"count": 3`` in a
variant makes three of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.messages.calls import FIELDS, Call, call_of

#: Jobs of one file.
MOST = 10_000

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def read_batch(app: Any, path: Path) -> list[Call]:
    """Return the calls that a file describes; nothing is sent.

    Args:
        app: the coordinated Celery app.
        path: a JSON file.

    Raises:
        InvalidValue: it cannot be read, or something in it is not allowed; with file, line and field.
    """
    try:
        text = path.read_text("utf-8")
        content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue("config", str(path), f"a file that can be read ({error})") from None
    except json.JSONDecodeError as error:
        where = f"{path.name} line {error.lineno} column {error.colno}"
        raise InvalidValue(where, _line(text, error.lineno), f"JSON: {error.msg}") from None
    return _Batch(app, path.name, lines_of(text)).calls(content)


class _Batch:
    """One file: its name, and the lines of its fields, for the errors."""

    def __init__(self, app: Any, name: str, lines: Mapping[str, int]) -> None:
        self.app, self.name, self.lines = app, name, lines

    def calls(self, content: Any) -> list[Call]:
        self._check(content, "", ("base", "variants"))
        base = content.get("base", {})
        self._check(base, "base", FIELDS)
        variants = content.get("variants", [{}] if base else None)
        if not isinstance(variants, list) or not variants:
            raise self._error("variants", variants, "a list of at least one object")
        found: list[Call] = []
        for number, variant in enumerate(variants):
            place = f"variants[{number}]"
            self._check(variant, place, (*FIELDS, "count"))
            count = variant.get("count", 1)
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
                raise self._error(f"{place}.count", count, f"a whole number from 1 to {MOST}")
            found += [self._call(base, variant, place)] * count
            if len(found) > MOST:
                raise self._error(place, f"{len(found)} jobs", f"at most {MOST} jobs in a file")
        return found

    def _call(self, base: Mapping[str, Any], variant: Mapping[str, Any], place: str) -> Call:
        fields = {**base, **variant}
        fields.pop("count", None)
        for one, other in (("task", "job_type"), ("model", "models")):
            # What the variant says stands for the other word of the base too.
            for own, old in ((one, other), (other, one)):
                if own in variant and old not in variant:
                    fields.pop(old, None)
        inherited, own_kwargs = base.get("kwargs", {}), variant.get("kwargs", {})
        if isinstance(inherited, dict) and isinstance(own_kwargs, dict):
            fields["kwargs"] = {**inherited, **own_kwargs}
        try:
            return call_of(self.app, fields)
        except InvalidValue as error:
            name = error.field
            if name not in FIELDS and name in fields.get("kwargs", {}):
                name = f"kwargs.{name}"
            # The variant's own, or else the one it has from the base.
            where = f"{place}.{name}" if f"{place}.{name}" in self.lines else f"base.{name}"
            where = where if where in self.lines else f"{place}.{name}"
            raise self._error(where, error.value, error.allowed) from None

    def _check(self, value: Any, place: str, known: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise self._error(place, value, "an object")
        for name in value:
            if name not in known:
                where = f"{place}.{name}" if place else name
                raise self._error(where, name, "one of " + ", ".join(known), known)

    def _error(
        self, place: str, value: Any, allowed: str, choices: tuple[str, ...] = ()
    ) -> InvalidValue:
        # Of a field that is missing the line of what it is missing in.
        known = place
        while known and known not in self.lines:
            known = known.rpartition(".")[0]
        line = self.lines.get(known, 1)
        return InvalidValue(f"{self.name} line {line}, {place or 'file'}", value, allowed, choices)


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def lines_of(text: str) -> dict[str, int]:
    """Return the line of each field of a JSON text, by its place such as ``variants[2].kwargs.model``.

    Args:
        text: what ``json.loads`` has read without an error.
    """
    found: dict[str, int] = {}
    #: For each open bracket: the place of what it belongs to, and the number of the element in a list, or None.
    stack: list[tuple[str, int | None]] = []
    place, line, at = "", 1, 0
    key: str | None = None
    for match in _TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        token = match.group()
        if token in "}]":
            stack.pop()
            continue
        if token == ",":
            parent, number = stack[-1]
            if number is not None:
                stack[-1] = (parent, number + 1)
            continue
        if token == ":":
            continue
        in_object = bool(stack) and stack[-1][1] is None
        if in_object and key is None and token not in "{[":
            key = json.loads(token)
            parent = stack[-1][0]
            place = f"{parent}.{key}" if parent else str(key)
            found.setdefault(place, line)
            continue
        if not in_object:
            place = f"{stack[-1][0]}[{stack[-1][1]}]" if stack else ""
            found.setdefault(place, line)
        key = None
        if token in "{[":
            stack.append((place, None if token == "{" else 0))
    return found

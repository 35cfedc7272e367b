"""Templates of workflows: ``{name}`` stands for an input or for the result of an earlier step.

``{train.path}`` and ``{train[0]}`` look into it. A text that is one reference and nothing else is replaced by the value
as it is, so that numbers stay numbers; in a longer text the value is put in as text. ``{{`` and ``}}`` are braces.
Attributes are never looked up: values come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordinator.errors import InvalidValue

NAME = r"[A-Za-z_][A-Za-z0-9_-]*"

_PART = re.compile(rf"\{{\{{|\}}\}}|\{{({NAME})((?:\.[\w-]+|\[[\w-]+\])*)\}}|[{{}}]")
_KEY = re.compile(r"[\w-]+")


class _Unknown:
    """The result of a step that has not run."""

    def __repr__(self) -> str:
        return "the result of an earlier step"

    def __format__(self, spec: str) -> str:
        raise TypeError(repr(self))


UNKNOWN = _Unknown()


def references(field: str, value: Any) -> dict[str, str]:
    """Return the names a value refers to, each with the text where it was found.

    Args:
        field: what the value is, for the error.
        value: anything JSON can hold.

    Raises:
        InvalidValue: a brace that begins or ends no reference.
    """
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            found.update(references(f"{field}.{key}", item))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            found.update(references(f"{field}[{number}]", item))
    elif isinstance(value, str):
        for match in _PART.finditer(value):
            if match.group(1):
                found[match.group(1)] = value
            elif len(match.group()) == 1:
                raise InvalidValue(
                    field, value, "{name}, {name.key} or {name[0]}; {{ and }} are braces"
                )
    return found


def filled(field: str, value: Any, names: Mapping[str, Any]) -> Any:
    """Return a value with its references replaced.

    Args:
        field: what the value is, for the error.
        value: anything JSON can hold, checked by ``references``.
        names: inputs and results.

    Raises:
        InvalidValue: a name that is not there, or a result without the key that is looked up in it.
    """
    if isinstance(value, Mapping):
        return {key: filled(f"{field}.{key}", item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(f"{field}[{number}]", item, names) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    whole = _PART.fullmatch(value)
    if whole and whole.group(1):
        return _looked_up(field, value, whole, names)

    unknown = False

    def put(match: re.Match[str]) -> str:
        nonlocal unknown
        if not match.group(1):
            return match.group()[0]
        found = _looked_up(field, value, match, names)
        unknown = unknown or found is UNKNOWN
        return str(found)

    text = _PART.sub(put, value)
    return UNKNOWN if unknown else text


def _looked_up(field: str, text: str, match: re.Match[str], names: Mapping[str, Any]) -> Any:
    name = match.group(1)
    if name not in names:
        raise InvalidValue(field, text, "one of " + (", ".join(names) or "no names"), names)
    found = names[name]
    if found is UNKNOWN:
        return found
    for key in _KEY.findall(match.group(2)):
        try:
            found = found[int(key)] if isinstance(found, (list, tuple)) else _item(found, key)
        except (LookupError, ValueError):
            allowed = f"a key of {name}, which is {_shown(names[name])}"
            raise InvalidValue(field, text, allowed) from None
    return found


def _item(found: Any, key: str) -> Any:
    if not isinstance(found, Mapping):
        raise LookupError(key)
    return found[key]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

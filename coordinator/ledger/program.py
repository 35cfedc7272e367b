"""The Lua program of the ledger: all operations and what they share, as one script.

One, since Lua's collector goes through all that is loaded again and again: with a script for each operation, every one
with its own copy of what they share, that took a third of the time of every call.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

_ADMITTING = ("jobs", "capacity", "wide", "classes", "starting", "standby", "admission", "ending")
_ADMISSION = ("epoch", *_ADMITTING)

#: Which parts an operation needs, if not those of admission.
_NEEDS: dict[str, tuple[str, ...]] = {
    "open": (),
    "elect": (),
    "wipe": (),
    "progress": ("epoch",),
    "watermark": ("epoch",),
    "verified": ("epoch",),
    "settle": ("epoch", "jobs"),
    "build": ("building",),
    "restore": ("building", *_ADMITTING),
    "submit": (*_ADMISSION, "blockers"),
    "finish": (*_ADMISSION, "blockers"),
    "claim": (*_ADMISSION, "bringing"),
    "bring": (*_ADMISSION, "bringing"),
    "why": (*_ADMISSION, "blockers"),
    "tick": (*_ADMISSION, "reservation"),
    "resubmit": (*_ADMISSION, "blockers", "ended"),
    "dismiss": (*_ADMISSION, "ended"),
}

#: In the order in which they use each other.
_PARTS = ("epoch", "building", *_ADMITTING, "blockers", "reservation", "ended", "bringing")

#: Operations that a Redis without room refuses; all others go on.
_NEED_ROOM = ("submit", "resubmit")

#: The last statement of a part: the names of what others use of it.
_EXPORTS = re.compile(r"^return ([\w\s,]+)\Z", re.MULTILINE)


@cache
def _sources() -> dict[str, str]:
    folder = files("coordinator").joinpath("lua")
    return {
        item.name.removesuffix(".lua"): item.read_text("utf-8")
        for item in folder.iterdir()
        if item.name.endswith(".lua")
    }


def operations() -> tuple[str, ...]:
    """Return the names of all operations."""
    return tuple(sorted(set(_sources()) - {"keys", "full", *_PARTS}))


def exports(part: str) -> list[str]:
    """Return what a part is there for.

    Raises:
        ValueError: it does not say so in its last statement.
    """
    found = _EXPORTS.search(_sources()[part])
    if found is None:
        raise ValueError(f"lua/{part}.lua does not end with the names of what others use of it")
    return re.findall(r"\w+", found[1])


def _one_of(names: list[str]) -> str:
    return " or ".join(f"verb == '{name}'" for name in names)


@cache
def program() -> str:
    """Return the source of the program."""
    source, verbs = _sources(), operations()
    lines = [source["keys"]]
    for part in _PARTS:
        names = ", ".join(exports(part))
        if part != "building":
            # It and `epoch` are there for the same names.
            lines.append(f"local {names}")
        # A function of its own: Lua looks for the variables of the function it is in one after the other, for each
        # function that uses them, and there are two hundred.
        lines.append(f"if {_one_of([verb for verb in verbs if part in _needs(verb)])} then")
        lines.append(f"{names} = (function()\n{source[part]}end)()")
        if part in ("epoch", "building"):
            lines.append("if not epoch then\nreturn cjson.encode({answer = 'no-epoch'})\nend")
        lines.append("end")
    lines.append(f"if not ({_one_of(list(_NEED_ROOM))}) then\n{source['full']}end")
    # An operation returns in many places; what it changed of jobs is written after each of them.
    lines.append("local operation")
    for index, verb in enumerate(verbs):
        lines.append(f"{'elseif' if index else 'if'} verb == '{verb}' then")
        lines.append(f"operation = function()\n{source[verb]}end")
    lines.append("end\nlocal answer = operation()\nif last then\nlast()\nend\nreturn answer\n")
    return "\n".join(lines)


def _needs(verb: str) -> tuple[str, ...]:
    return _NEEDS.get(verb, _ADMISSION)


@cache
def sha() -> str:
    """Return the name by which Redis knows the program."""
    return hashlib.sha1(program().encode(), usedforsecurity=False).hexdigest()

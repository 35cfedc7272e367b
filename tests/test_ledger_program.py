"""The Lua program that all operations are put into."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from coordinator.ledger import Ledger
from coordinator.ledger.program import _PARTS, exports, operations, program, sha

LUA = files("coordinator").joinpath("lua")


def code(name: str) -> str:
    return re.sub(r"--.*", "", LUA.joinpath(f"{name}.lua").read_text("utf-8"))


@pytest.mark.parametrize("part", _PARTS)
def test_others_use_all_that_a_part_is_there_for(part: str) -> None:
    others = "\n".join(code(name) for name in (*_PARTS, *operations()) if name != part)
    # `last` is called by what is put around the operations.
    used = {*re.findall(r"\w+", others), "last"}
    assert [name for name in exports(part) if name not in used] == []


def test_no_two_parts_have_the_same_name_for_something() -> None:
    names = [name for part in _PARTS if part != "building" for name in exports(part)]
    assert len(names) == len(set(names))


def test_a_part_that_does_not_say_what_it_is_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lua/finish\.lua does not end with the names"):
        exports("finish")


def test_the_server_has_one_script_for_all_operations(redis_url: str) -> None:
    ledger = Ledger(redis_url)
    ledger.redis.script_flush()
    ledger.open(1)
    for _ in range(2):
        ledger.load()
    assert ledger.redis.script_exists(sha()) == [True]
    found = re.findall(r"^(?:else)?if verb == '(\w+)' then\noperation = ", program(), re.MULTILINE)
    assert found == list(operations())


def test_a_server_that_lost_the_script_is_given_it_again(redis_url: str) -> None:
    ledger = Ledger(redis_url)
    ledger.open(1)
    ledger.redis.script_flush()
    ledger.tick()
    assert ledger.redis.script_exists(sha()) == [True]

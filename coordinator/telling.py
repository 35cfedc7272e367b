"""Telling: a job process whose body is over, and that has only to say so, is spared by its worker's guard.

While Redis is away the end of a run cannot be told. Killed with those that still run, it would run again,
although it has ended. So the process shows by its name what it does, which others can read without asking.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from typing import Any

#: The process's name meanwhile; the kernel keeps 15 characters.
NAME = "coordinator-end"

_PR_SET_NAME, _PR_GET_NAME = 15, 16


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


@cache
def _own_name() -> bytes:
    name = ctypes.create_string_buffer(16)
    _libc().prctl(_PR_GET_NAME, name, 0, 0, 0)
    return name.value


def show(telling: bool) -> None:
    """Show whether this process is telling the end of a run; only its main thread can, and only on Linux."""
    if _libc() is None or threading.current_thread() is not threading.main_thread():
        return
    own = _own_name()
    _libc().prctl(_PR_SET_NAME, NAME.encode() if telling else own, 0, 0, 0)

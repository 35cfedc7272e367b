"""Small JSON files that only their owner may read: addresses and passwords of this machine."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.errors import CoordinatorError


class PrivateFile:
    """A JSON object kept in a file of mode 0600, created once by whoever comes first.

    Args:
        path: where it is kept; missing folders are created with mode 0700.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """Return the kept object, or None if there is none.

        Raises:
            CoordinatorError: the file cannot be read or is not a JSON object.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CoordinatorError(f"{self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CoordinatorError(
                f"{self.path} is damaged: stop everything that uses it, remove it and start again"
            ) from error
        if not isinstance(content, dict):
            raise CoordinatorError(f"{self.path} does not hold a JSON object: remove it")
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Replace the kept object; readers see the old or the new one, never a part.

        Raises:
            CoordinatorError: the folder cannot be written.
        """
        write_private(self.path, json.dumps(content, indent=2) + "\n")

    def create_once(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the kept object; the first caller of all processes makes it.

        Raises:
            CoordinatorError: the folder cannot be written or the file is damaged.
        """
        # The usual case takes no lock, so that a reader needs no right to write.
        if (content := self.read()) is not None:
            return content
        with self.locked():
            if (content := self.read()) is None:
                content = make()
                self.write(content)
        return content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the file meanwhile."""
        # A lock file of its own: a lock on the file itself would be on the inode that write()
        # replaces, and two processes would each hold "the" lock.
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CoordinatorError(f"{lock} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Replace the file ``path`` in one step by one of mode 0600.

    Raises:
        CoordinatorError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp creates with mode 0600, so the content is at no moment readable by others.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                # Without it a power cut may leave the new name with nothing in it.
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CoordinatorError(f"{path} cannot be written: {error.strerror}") from error

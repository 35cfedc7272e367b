"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees the whole old file or the whole new one.

    The temporary file lies in the same folder, since a rename is atomic only within one file system,
    and is synced first, since after a power cut the name may survive while the data did not.
    """
    descriptor, name = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path, older_than: float = 3600.0) -> int:
    """Remove temporary files that killed writers left behind.

    Args:
        folder: searched with everything below it.
        older_than: seconds; younger ones may still be in the hands of their writer.

    Returns:
        How many were removed.
    """
    limit = time.time() - older_than
    removed = 0
    for path in folder.rglob(f".*{TEMPORARY}"):
        try:
            if path.stat().st_mtime <= limit:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while something beside it is read, judged and replaced.

    The system releases it when the holder dies.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

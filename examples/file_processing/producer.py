"""Adds a file and a job that stamps it, again and again."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

from tasks.files import stamp


def produce(folder: Path, number: int, seconds: float = 0.0) -> tuple[Path, str]:
    """Create file ``number`` in ``folder`` and submit its job.

    Args:
        folder: created if it is not there.
        number: of the file.
        seconds: how long the job takes.

    Returns:
        The file's path and the job's id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"file-{number:05}.txt"
    path.write_text(f"file {number}\n")
    return path, stamp.delay(str(path.resolve()), seconds=seconds).id


def main() -> None:
    """Produce until stopped."""
    data_dir = Path(os.environ.get("COORDINATOR_DATA_DIR") or ".coordinator")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=data_dir / "files", help="for the files")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two files")
    parser.add_argument("--seconds", type=float, default=0.0, help="a job takes")
    parser.add_argument("--count", type=int, help="files in all; without it there is no end")
    parser.add_argument("--delete-every", type=int, help="delete every n-th file at once")
    options = parser.parse_args()
    taken = [int(path.stem.removeprefix("file-")) for path in options.folder.glob("file-*.txt")]
    numbers = itertools.count(max(taken, default=0) + 1)
    for number in itertools.islice(numbers, options.count):
        path, job_id = produce(options.folder, number, options.seconds)
        gone = options.delete_every and number % options.delete_every == 0
        if gone:
            path.unlink()
        print(f"{path} job {job_id}{' (deleted)' if gone else ''}", flush=True)
        time.sleep(options.every)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")

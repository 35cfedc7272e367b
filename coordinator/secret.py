"""Secrets from the environment, or from files that it names: as Docker, Kubernetes and systemd hand them over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from coordinator.errors import InvalidSetting

#: What is put after a variable's name when the value is the path of a file with the secret.
FILE = "_FILE"


def secret_of(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Return a variable of the environment, or the first line of the file that ``<name>_FILE`` names.

    Args:
        name: the variable.
        environment: by default this process's.

    Raises:
        InvalidSetting: the file cannot be read, or both are given.
    """
    environment = os.environ if environment is None else environment
    told, path = environment.get(name), environment.get(name + FILE)
    if not path:
        return told or None
    if told:
        raise InvalidSetting(name + FILE, path, f"left out where {name} is given, too")
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(name + FILE, path, f"a file that can be read ({error})") from error
    if not lines or not lines[0].strip():
        raise InvalidSetting(name + FILE, path, "a file with the secret in its first line")
    return lines[0].strip()


def with_files(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return an environment in which variables have what the files hold that their ``<name>_FILE`` name.

    Args:
        environment: as it is.
        names: the variables that may be given so.

    Raises:
        As ``secret_of``.
    """
    found = dict(environment)
    for name in names:
        if found.get(name + FILE):
            found[name] = secret_of(name, environment) or ""
            del found[name + FILE]
    return found

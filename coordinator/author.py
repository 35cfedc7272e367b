"""Who acts when nobody says so."""

from __future__ import annotations

import getpass
import os
import socket


def default_author() -> str:
    """Return ``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

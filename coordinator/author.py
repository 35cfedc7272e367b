"""Who acts when nobody says so."""

from __future__ import annotations

import os
import socket


def default_author() -> str:
    """Return ``user@host`` of this process."""
    # A terminal's module, which none but operators need.
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

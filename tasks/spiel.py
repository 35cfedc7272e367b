"""OpenSpiel, imported from here by what plays; apart from numpy, since it is far larger."""

from __future__ import annotations

from tasks.numeric import MISSING

try:
    import pyspiel
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(MISSING, name=error.name) from error

__all__ = ["pyspiel"]

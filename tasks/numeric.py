"""Numpy, imported from here by all that plays and learns: one place says what to do where it is missing."""

from __future__ import annotations

#: Said where a package of the extra is missing.
MISSING = "games and networks need the extra 'games': pip install 'celery-coordinator[games]'"

try:
    import numpy as np
    import numpy.typing as npt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(MISSING, name=error.name) from error

__all__ = ["MISSING", "np", "npt"]

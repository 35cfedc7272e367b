"""Makes the reference pages from the code; tests compare them with what is there."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent

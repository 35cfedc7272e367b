"""Pages of listings: what is on one, and where the next begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from coordinator.errors import InvalidValue

#: Rows that one listing may ask for.
MOST = 10_000


class Listed(Protocol):
    """What a listing goes on after."""

    @property
    def cursor(self) -> str: ...


Entry = TypeVar("Entry", bound=Listed)


class Page(list[Entry]):
    """A page of a listing.

    Args:
        entries: what is in it. By status it may be less than was asked for, or nothing: what has moved on since it
            was recorded is left out.
        rows: all that was read for it, with what was left out.
        limit: rows that were asked for; fewer are the last page.

    Attributes:
        cursor: where the next page begins; None when this is the last one.
    """

    def __init__(self, entries: Iterable[Entry], rows: Sequence[Entry], limit: int) -> None:
        super().__init__(entries)
        self.cursor = rows[-1].cursor if len(rows) == limit else None


def checked_limit(limit: int) -> int:
    """Return how many rows a page may have.

    Raises:
        InvalidValue: less than 1, or more than 10,000.
    """
    if not 1 <= limit <= MOST:
        raise InvalidValue("limit", limit, f"a whole number from 1 to {MOST}")
    return limit


def parse_cursor(cursor: str | None) -> tuple[int, str] | None:
    """Return after what a page begins: a number and an id; None is the beginning.

    Raises:
        InvalidValue: it is no cursor.
    """
    if cursor is None:
        return None
    number, _, rest = cursor.partition(".")
    try:
        return int(number), rest
    except ValueError:
        allowed = "the cursor of the last entry of a page"
        raise InvalidValue("cursor", cursor, allowed) from None

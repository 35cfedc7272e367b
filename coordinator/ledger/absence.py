"""When Redis does not do what it is asked: it is not reached, or it answers that it cannot now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions

from coordinator.errors import LedgerUnavailable

#: Redis was not reached, or broke off.
UNREACHED = (redis.ConnectionError, redis.TimeoutError, OSError)

#: Answers of a server that will do it later, or whose successor will, as redis-py knows them.
_LATER = (
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.OutOfMemoryError,
)

#: The same answers by their first word, which redis-py leaves where it has no class for them. Redis 6 puts
#: what stopped a script behind the place where it stopped.
_CODES = re.compile(
    r"(?:^|: -)(READONLY|MISCONF|NOREPLICAS|BUSY|LOADING|MASTERDOWN|CLUSTERDOWN|UNBLOCKED|TRYAGAIN|OOM) "
)


def is_away(error: BaseException) -> bool:
    """Whether an error says nothing of the request, which succeeds when Redis is itself again.

    A replica that was the master, a full disk or a script that runs for long are no reason to give up the end of
    a run.
    """
    if isinstance(error, (*UNREACHED, *_LATER)):
        return True
    return isinstance(error, redis.ResponseError) and bool(_CODES.search(str(error)))


def is_full(error: BaseException) -> bool:
    """Whether Redis refused because its memory is used up."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return True
    found = _CODES.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return bool(found and found[1] == "OOM")


def unavailable(error: BaseException) -> LedgerUnavailable:
    """Return the ledger's error for one of those that ``is_away`` knows."""
    if isinstance(error, redis.ResponseError):
        return LedgerUnavailable(f"Redis cannot do it now: {error}")
    return LedgerUnavailable(f"Redis cannot be reached: {error}")


@contextmanager
def reaching() -> Iterator[None]:
    """Turn what says that Redis is away into the ledger's error.

    Raises:
        LedgerUnavailable: it is.
    """
    try:
        yield
    except (*UNREACHED, redis.ResponseError) as error:
        if not is_away(error):
            raise
        raise unavailable(error) from error

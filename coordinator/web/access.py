"""Who calls: a script with a bearer token, or a person with a session. What they may do is their scope."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from coordinator.schema.accounts import SCOPES
from coordinator.web.bounds import REMEMBERED, Failures
from coordinator.web.credentials import digest, parse_token, same, verified
from coordinator.web.problems import Failed

if TYPE_CHECKING:
    from coordinator.store import Store, User

logger = logging.getLogger("coordinator")

COOKIE, CSRF_HEADER = "coordinator_session", "X-CSRF-Token"

#: A session ends when it was not used for so long, and so long after its login in any case (milliseconds).
IDLE_MS, AGE_MS = 12 * 3_600_000, 7 * 86_400_000

#: Wrong tokens, and wrong passwords, from one host; wrong passwords for one user. Each within seconds.
TOKENS, LOGINS, USER_LOGINS = (30, 60.0), (10, 300.0), (20, 300.0)

#: Seconds to wait for others who log in.
LOGIN_WAIT = 3.0

_SAFE = ("GET", "HEAD", "OPTIONS")
_DUMMY = digest(secrets.token_urlsafe(32))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        kind, name: ``token`` or ``user``, and which.
        scope: ``viewer``, ``operator`` or ``admin``.
        host: where from.
        csrf: what the pages of this session send with what they do; empty for tokens.
    """

    kind: str
    name: str
    scope: str
    host: str
    csrf: str = ""

    @property
    def identity(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def by(self) -> str:
        """The author as the log shows them."""
        return f"{self.identity}@{self.host}"

    def may(self, scope: str) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


@dataclass(frozen=True, slots=True)
class Card:
    """What a request shows of its caller."""

    host: str
    authorization: str
    cookie: str
    csrf: str
    safe: bool

    @classmethod
    def of(cls, request: Request) -> Card:
        return cls(
            request.client.host if request.client else "unknown",
            request.headers.get("authorization", ""),
            request.cookies.get(COOKIE, ""),
            request.headers.get(CSRF_HEADER, ""),
            request.method in _SAFE,
        )


class Access:
    """Tells who calls.

    Args:
        store: returns the store; asked when it is needed, since it may be away at first.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._tokens, self._logins = Failures(*TOKENS), Failures(*LOGINS)
        self._users = Failures(*USER_LOGINS)
        self._good: OrderedDict[str, None] = OrderedDict()
        self._lock, self._one = threading.Lock(), threading.Lock()

    def identify(self, card: Card) -> Caller:
        """Return who calls.

        Raises:
            Failed: 401 when it is nobody that is known, 403 for a request that a page did not make itself, 429
                after too many wrong tokens.
            StoreUnavailable: it cannot be told.
        """
        kind, _, text = card.authorization.partition(" ")
        if kind.lower() == "bearer" and text:
            return self._token(card, text.strip())
        if card.cookie:
            return self._session(card)
        raise _unknown("a bearer token or a session is needed")

    def login(self, name: str, password: str, host: str) -> tuple[Caller, str]:
        """Return who logs in, and the secret of their new session.

        Raises:
            Failed: 401 when user or password is wrong, 429 after too many of these, 503 when too many try at once.
        """
        # One at a time: a hash takes 64 MB, and many at once would be tried before the first is counted.
        if not self._one.acquire(timeout=LOGIN_WAIT):
            raise Failed(503, "too many log in at once", {"Retry-After": "5"})
        try:
            user = self._verified(name, password, host)
        finally:
            self._one.release()
        store, secret = self._store(), secrets.token_urlsafe(32)
        store.open_session(digest(secret), user.name)
        caller = Caller("user", user.name, user.scope, host, csrf_of(secret))
        store.note("logged_in", caller.by)
        return caller, secret

    def _verified(self, name: str, password: str, host: str) -> User:
        for failures, who in ((self._logins, host), (self._users, name)):
            if seconds := failures.wait(who):
                raise _later(seconds)
        store = self._store()
        user = store.user(name)
        if not verified(user.password if user else None, password) or user is None:
            self._logins.note(host)
            self._users.note(name)
            store.note("login_failed", f"user:{name[:100]}@{host}")
            raise _unknown("user or password is wrong")
        self._users.forget(name)
        return user

    def logout(self, caller: Caller, secret: str) -> None:
        """End a session."""
        store = self._store()
        store.close_session(digest(secret))
        store.note("logged_out", caller.by)

    def _token(self, card: Card, text: str) -> Caller:
        whole = digest(text)
        # Who was let in lately is not kept out because somebody else behind the same address guesses.
        if whole not in self._good and (seconds := self._tokens.wait(card.host)):
            raise _later(seconds)
        token_id, secret = parse_token(text) or ("", "")
        store = self._store()
        found = store.token(token_id) if token_id else None
        if not same(found.digest if found else _DUMMY, digest(secret)) or found is None:
            self._tokens.note(card.host)
            with self._lock:
                self._good.pop(whole, None)
            logger.warning("[COORDINATOR] HTTP: a wrong token from %s", card.host)
            raise _unknown("this token is not known (any more)")
        with self._lock:
            self._good[whole] = None
            while len(self._good) > REMEMBERED:
                self._good.popitem(last=False)
        store.token_used(found)
        return Caller("token", found.name, found.scope, card.host)

    def _session(self, card: Card) -> Caller:
        found = self._store().session(digest(card.cookie), IDLE_MS, AGE_MS)
        if found is None:
            raise _unknown("this session has ended: log in again")
        own = csrf_of(card.cookie)
        # A cookie is sent with what another site makes the browser do; the header is not.
        if not card.safe and not same(own, card.csrf):
            raise Failed(403, f"the header {CSRF_HEADER} of this session is missing or wrong")
        return Caller("user", found.name, found.scope, card.host, own)


def csrf_of(secret: str) -> str:
    """Return what the pages of a session send with what they do."""
    return digest(f"csrf {secret}")


def _unknown(detail: str) -> Failed:
    return Failed(401, detail, {"WWW-Authenticate": 'Bearer realm="coordinator"'})


def _later(seconds: int) -> Failed:
    return Failed(429, "too many failed attempts: try again later", {"Retry-After": str(seconds)})

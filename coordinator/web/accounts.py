"""Who may call: users and tokens are made and taken away here, each time with a line in the log."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from coordinator.errors import InvalidValue, Refused
from coordinator.resources import check_name
from coordinator.schema.accounts import SCOPES
from coordinator.store import RowRefused
from coordinator.web.credentials import hashed, new_token

if TYPE_CHECKING:
    from coordinator.store import Store

#: Who is let in where nobody may log in yet.
FIRST = "admin"


class Accounts:
    """The verbs of users and tokens.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_token(self, name: str, scope: str, *, by: str, until_ms: int | None = None) -> str:
        """Make a token and return it; it cannot be shown again.

        Args:
            name: how the log names it.
            scope: ``viewer``, ``operator`` or ``admin``.
            by: who makes it.
            until_ms: when it ends (Unix milliseconds); None is never.

        Raises:
            InvalidValue: no name, or no scope.
            Refused: there is one of this name.
        """
        _checked(name, scope)
        token = new_token()
        try:
            self._store.add_token(
                token.token_id, name, token.digest, scope, by=by, until_ms=until_ms
            )
        except RowRefused:
            raise Refused(f"there is a token {name!r} already: revoke it first") from None
        self._store.note("token_created", by, after=scope, data={"token": name})
        return token.text

    def revoke_token(self, name: str, *, by: str) -> None:
        """Take a token back; it is refused from now on.

        Raises:
            Refused: there is none of this name.
        """
        if not self._store.revoke_token(name):
            raise Refused(f"there is no token {name!r}: coordinator web token list")
        self._store.note("token_revoked", by, data={"token": name})

    def add_user(self, name: str, password: str, scope: str, *, by: str) -> None:
        """Let somebody log in.

        Args:
            name, password: what they log in with.
            scope: ``viewer``, ``operator`` or ``admin``.
            by: who lets them.

        Raises:
            InvalidValue: no name, no scope, or a password that is too short.
            Refused: there is one of this name.
        """
        _checked(name, scope)
        kept = hashed(password)
        try:
            self._store.add_user(name, kept, scope)
        except RowRefused:
            raise Refused(f"there is a user {name!r} already") from None
        self._store.note("user_added", by, after=scope, data={"user": name})

    def add_first(self, *, by: str) -> str | None:
        """Let an admin log in where nobody may yet, and return their password; it cannot be shown again.

        Args:
            by: who lets them.

        Returns:
            The password of the user ``FIRST``; None where somebody may log in already.
        """
        if self._store.users():
            return None
        password = secrets.token_urlsafe(15)
        try:
            self.add_user(FIRST, password, "admin", by=by)
        except Refused:
            # Another process was first.
            return None
        return password

    def remove_user(self, name: str, *, by: str) -> None:
        """Take a user away; their sessions end.

        Raises:
            Refused: there is none of this name.
        """
        if not self._store.remove_user(name):
            raise _nobody(name)
        self._store.note("user_removed", by, data={"user": name})

    def set_password(self, name: str, password: str, *, by: str) -> None:
        """Replace a user's password; their sessions end.

        Raises:
            InvalidValue: it is too short.
            Refused: there is no such user.
        """
        if not self._store.set_password(name, hashed(password)):
            raise _nobody(name)
        self._store.note("password_changed", by, data={"user": name})


def _checked(name: str, scope: str) -> None:
    check_name("name", name)
    if scope not in SCOPES:
        raise InvalidValue("scope", scope, "one of " + ", ".join(SCOPES), SCOPES)


def _nobody(name: str) -> Refused:
    return Refused(f"there is no user {name!r}: coordinator web user list")

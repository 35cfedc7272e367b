"""Accounts: users, sessions and tokens, and the answers that a repeated request is given again.

Only hashes are kept: who reads the database cannot call with what is in it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator.store.database import Database, Row, now_ms

#: Milliseconds between two notes of when something was used last.
_NOTED = 60_000

#: For how long an answer is kept, in milliseconds.
ANSWERS_KEPT = 86_400_000


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in.

    Attributes:
        name: how the log names them.
        password: its hash.
        scope: ``viewer``, ``operator`` or ``admin``.
        created_ms: Unix milliseconds.
    """

    name: str
    password: str
    scope: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Session:
    """A login that has not ended; moments are Unix milliseconds."""

    name: str
    scope: str
    created_ms: int
    used_ms: int


@dataclass(frozen=True, slots=True)
class Token:
    """What a script calls with.

    Attributes:
        token_id: its public part.
        name: how the log names it.
        digest: the hash of its secret part.
        scope: ``viewer``, ``operator`` or ``admin``.
        created_by: who made it.
        created_ms, until_ms, used_ms: moments (Unix milliseconds); None is never.
    """

    token_id: str
    name: str
    digest: str
    scope: str
    created_by: str
    created_ms: int
    until_ms: int | None
    used_ms: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller's key stands for.

    Attributes:
        request: the fingerprint of the request it came with first.
        nonce: what this request, and no other, may name what it makes.
        status, body: what it was answered; None as long as it has not been.
    """

    request: str
    nonce: str
    status: int | None
    body: str | None


class Accounts(Database):
    """The verbs of accounts."""

    def add_user(self, name: str, password: str, scope: str) -> None:
        """Keep a user.

        Args:
            name: their name.
            password: the hash of their password.
            scope: what they may do.

        Raises:
            RowRefused: there is one of this name, or it is no scope.
        """
        row = {"name": name, "password": password, "scope": scope, "created_at": now_ms()}
        with self.writing() as connection:
            connection.execute(sa.insert(self.schema.accounts.users), row)

    def set_password(self, name: str, password: str) -> bool:
        """Replace the hash of a user's password and end their sessions; False if there is no such user."""
        users, sessions = self.schema.accounts.users, self.schema.accounts.sessions
        with self.writing() as connection:
            update = sa.update(users).where(users.c.name == name).values(password=password)
            connection.execute(sa.delete(sessions).where(sessions.c.name == name))
            return connection.execute(update).rowcount > 0

    def remove_user(self, name: str) -> bool:
        """Forget a user and their sessions; False if there is no such user."""
        users = self.schema.accounts.users
        with self.writing() as connection:
            # Their sessions go with them: the database sees to that.
            return connection.execute(sa.delete(users).where(users.c.name == name)).rowcount > 0

    def user(self, name: str) -> User | None:
        """Return a user, or None."""
        users = self.schema.accounts.users
        found = self.rows(sa.select(users).where(users.c.name == name))
        return _user(found[0]) if found else None

    def users(self) -> list[User]:
        """Return all users by name."""
        users = self.schema.accounts.users
        return [_user(row) for row in self.rows(sa.select(users).order_by(users.c.name))]

    def open_session(self, digest: str, name: str) -> None:
        """Keep a login of a user.

        Raises:
            RowRefused: there is no such user (any more).
        """
        now = now_ms()
        row = {"digest": digest, "name": name, "created_at": now, "used_at": now}
        with self.writing() as connection:
            connection.execute(sa.insert(self.schema.accounts.sessions), row)

    def session(self, digest: str, idle_ms: int, age_ms: int) -> Session | None:
        """Return a login that has not ended, and note that it is used.

        Args:
            digest: the hash of what its browser has.
            idle_ms: it ends when it was not used for so long.
            age_ms: and this long after it began, used or not.
        """
        sessions, users = self.schema.accounts.sessions, self.schema.accounts.users
        query = sa.select(
            sessions.c.name, users.c.scope, sessions.c.created_at, sessions.c.used_at
        ).select_from(sessions.join(users, users.c.name == sessions.c.name))
        found = self.rows(query.where(sessions.c.digest == digest))
        if not found:
            return None
        (row,), now = found, now_ms()
        if now - row["used_at"] > idle_ms or now - row["created_at"] > age_ms:
            self.close_session(digest)
            return None
        if now - row["used_at"] > _NOTED:
            with self.writing() as connection:
                connection.execute(
                    sa.update(sessions).where(sessions.c.digest == digest).values(used_at=now)
                )
        return Session(row["name"], row["scope"], row["created_at"], row["used_at"])

    def close_session(self, digest: str) -> None:
        """End a login."""
        sessions = self.schema.accounts.sessions
        with self.writing() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.digest == digest))

    def add_token(
        self,
        token_id: str,
        name: str,
        digest: str,
        scope: str,
        *,
        by: str,
        until_ms: int | None = None,
    ) -> None:
        """Keep a token.

        Args:
            token_id, name, digest, scope, by, until_ms: see ``Token``.

        Raises:
            RowRefused: there is one of this name, or it is no scope.
        """
        row = {
            "token_id": token_id,
            "name": name,
            "digest": digest,
            "scope": scope,
            "created_by": by,
            "created_at": now_ms(),
            "until_at": until_ms,
        }
        with self.writing() as connection:
            connection.execute(sa.insert(self.schema.accounts.tokens), row)

    def revoke_token(self, name: str) -> bool:
        """Forget a token; False if there is none of this name."""
        tokens = self.schema.accounts.tokens
        with self.writing() as connection:
            return connection.execute(sa.delete(tokens).where(tokens.c.name == name)).rowcount > 0

    def token(self, token_id: str) -> Token | None:
        """Return a token that has not ended, or None."""
        tokens = self.schema.accounts.tokens
        ended = sa.and_(tokens.c.until_at.is_not(None), tokens.c.until_at <= now_ms())
        query = sa.select(tokens).where(tokens.c.token_id == token_id, sa.not_(ended))
        found = self.rows(query)
        return _token(found[0]) if found else None

    def token_used(self, token: Token) -> None:
        """Note that a token is used, about once a minute."""
        tokens, now = self.schema.accounts.tokens, now_ms()
        if now - (token.used_ms or 0) > _NOTED:
            with self.writing() as connection:
                connection.execute(
                    sa.update(tokens).where(tokens.c.token_id == token.token_id).values(used_at=now)
                )

    def tokens(self) -> list[Token]:
        """Return all tokens by name, those that have ended too."""
        tokens = self.schema.accounts.tokens
        return [_token(row) for row in self.rows(sa.select(tokens).order_by(tokens.c.name))]

    def reserve_answer(self, caller: str, key: str, request: str) -> Answer:
        """Return what a caller's key stands for; a new one stands for this request from now on.

        Args:
            caller: who asks.
            key: what they call the request.
            request: its fingerprint.
        """
        table, now = self.schema.accounts.answers, now_ms()
        row = {
            "caller": caller,
            "key": key,
            "request": request,
            "nonce": secrets.token_hex(16),
            "created_at": now,
        }
        insert = self.upsert(table).values(row)
        mine = (table.c.caller == caller, table.c.key == key)
        with self.writing() as connection:
            # Old ones go when new ones come: nobody has to remember it.
            connection.execute(sa.delete(table).where(table.c.created_at < now - ANSWERS_KEPT))
            connection.execute(insert.on_conflict_do_nothing(index_elements=["caller", "key"]))
            query = sa.select(table.c.request, table.c.nonce, table.c.status, table.c.body)
            found = connection.execute(query.where(*mine)).mappings().one()
        return Answer(**found)

    def forget_answer(self, caller: str, key: str) -> None:
        """Let a key stand for nothing again, if it was not answered: what was asked for was refused."""
        table = self.schema.accounts.answers
        mine = (table.c.caller == caller, table.c.key == key, table.c.status.is_(None))
        with self.writing() as connection:
            connection.execute(sa.delete(table).where(*mine))

    def keep_answer(self, caller: str, key: str, status: int, body: str) -> Answer:
        """Keep what a request was answered; the first one counts, and is returned."""
        table = self.schema.accounts.answers
        mine = (table.c.caller == caller, table.c.key == key)
        with self.writing() as connection:
            connection.execute(
                sa.update(table)
                .where(*mine, table.c.status.is_(None))
                .values(status=status, body=body)
            )
            query = sa.select(table.c.request, table.c.nonce, table.c.status, table.c.body)
            found = connection.execute(query.where(*mine)).mappings().one_or_none()
        return Answer("", "", status, body) if found is None else Answer(**found)


def _user(row: Row) -> User:
    return User(row["name"], row["password"], row["scope"], row["created_at"])


def _token(row: Row) -> Token:
    return Token(
        row["token_id"],
        row["name"],
        row["digest"],
        row["scope"],
        row["created_by"],
        row["created_at"],
        row["until_at"],
        row["used_at"],
    )

"""Secrets: made here, shown once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from coordinator.errors import InvalidValue

#: What tokens begin with, so that scanners find one that was published by mistake.
TOKEN_PREFIX = "coordinator"

#: Characters of a password: fewer are guessed, and hashing many keeps a thread busy.
SHORTEST, LONGEST = 10, 1000

# Argon2id with the library's parameters (RFC 9106, low memory): some 50 ms.
_hasher = PasswordHasher()

#: Verified for users there are not, so that the time of an answer does not tell who is one.
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: its public part, what is kept of it, and the whole, which is shown once."""

    token_id: str
    digest: str
    text: str


def new_token() -> NewToken:
    """Return a token."""
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewToken(token_id, digest(secret), f"{TOKEN_PREFIX}_{token_id}_{secret}")


def parse_token(text: str) -> tuple[str, str] | None:
    """Return the public and the secret part of a token, or None when it cannot be one."""
    prefix, _, rest = text.partition("_")
    token_id, _, secret = rest.partition("_")
    return (token_id, secret) if prefix == TOKEN_PREFIX and token_id and secret else None


def digest(secret: str) -> str:
    """Return what is kept of a random secret. It is too long to be guessed, so one round is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two texts in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def hashed(password: str) -> str:
    """Return what is kept of a password.

    Raises:
        InvalidValue: it is too short, or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        allowed = f"a text of {SHORTEST} to {LONGEST} characters"
        raise InvalidValue("password", "(not shown)", allowed)
    return _hasher.hash(password)


def verified(kept: str | None, password: str) -> bool:
    """Whether a password is the one that was kept; None is somebody who does not exist."""
    try:
        # Longer ones are nobody's, and would take their time.
        _hasher.verify(kept or _NOBODY, password[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None

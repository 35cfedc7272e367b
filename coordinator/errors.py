"""What can go wrong, said so that the reader knows what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: A password in a URL, up to the last @: in one that is wrong it may hold whatever should have been encoded.
_PASSWORD = re.compile(r"(\w://[^\s/@:'\"]*:)[^\s\"]*@")

#: One that is an option of a URL (``?password=``, ``&sslpassword=``) or of a database driver.
_OPTION = re.compile(r"(passw(?:or)?d=)[^\s&'\"]+", re.IGNORECASE)


def masked(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return _OPTION.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


class CoordinatorError(Exception):
    """Base of every error raised by the coordinator."""


class InvalidValue(CoordinatorError, ValueError):
    """A value that cannot be accepted; names the field, the value and what is allowed."""

    def __init__(
        self, field: str, value: object, allowed: str, choices: Iterable[str] = ()
    ) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        self.choices = tuple(choices)
        # Before it is cut, or what is left of a URL would not be known as one.
        shown = masked(repr(value))
        if len(shown) > 80:
            shown = f"{shown[:77]}... ({len(shown)} characters)"
        near = difflib.get_close_matches(str(value), self.choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(masked(f"{field}: {shown} is not allowed: {allowed}{hint}"))


class InvalidSetting(InvalidValue):
    """A wrong setting; the message names it, its value and what is allowed."""


class Refused(CoordinatorError):
    """An operation that the present state does not allow; the message says the way out."""


class NoWorker(Refused):
    """A queue that no live worker consumes; one that is restarted is back in a few seconds."""


class Unknown(CoordinatorError, KeyError):
    """Nothing of this name or id is known; its subclasses say of what kind."""

    def __str__(self) -> str:
        # A KeyError shows its text in quotes.
        return str(self.args[0]) if self.args else "unknown"


class UnknownJob(Unknown):
    """No job of this id is known."""


class UnknownExecution(Unknown):
    """No execution of this id is known."""


class UnknownWorkflow(Unknown):
    """No workflow of this name is defined."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        there = (
            ", ".join(names) or "none: define some in Python or name files in coordinator_workflows"
        )
        super().__init__(f"no workflow {name!r} is defined{hint} There are: {there}")


class LedgerClosed(CoordinatorError):
    """The ledger is being restored after Redis was wiped, restarted or failed over."""


class LedgerUnavailable(CoordinatorError):
    """Redis cannot be reached."""


class LedgerFull(CoordinatorError):
    """Redis is nearly full: new jobs are refused, so that those there are can go on.

    Args:
        used, allowed: bytes of memory.
    """

    def __init__(self, used: int, allowed: int) -> None:
        self.used, self.allowed = used, allowed
        super().__init__(
            f"Redis uses {used / 1e6:.1f} MB of the {allowed / 1e6:.1f} MB it may: no new job is accepted "
            "until jobs have ended; raise its maxmemory, or wait"
        )


class StoreUnavailable(CoordinatorError):
    """The database cannot be reached, so the job could not be accepted."""


class JobStopped(CoordinatorError):
    """Raised by ``checkpoint()`` inside a job that was canceled or released."""


class NotRetryable(CoordinatorError):
    """Raise it from a task to fail the job at once, without a retry."""

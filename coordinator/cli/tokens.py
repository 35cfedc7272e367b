"""``coordinator web token`` and ``web user``: who may call over HTTP."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from coordinator.author import default_author
from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, by_option
from coordinator.cli.output import ErrorsShown, Failure, answer, json_option, rows
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.web.accounts import Accounts

SCOPES = ("viewer", "operator", "admin")

scope_option = click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="viewer",
    show_default=True,
    help="Look; act on jobs and queues too; change limits and stop everything too.",
)
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)


def needed() -> Failure:
    """Return the error of an installation without the packages of the extra."""
    return Failure("HTTP needs the extra 'web': pip install 'celery-coordinator[web]'")


def _accounts(installation: Installation) -> Accounts:
    try:
        from coordinator.web.accounts import Accounts
    except ModuleNotFoundError as error:
        raise needed() from error
    return Accounts(installation.records.store)


@click.group("token", cls=ErrorsShown)
def token() -> None:
    """Tokens: what scripts call with."""


@token.command("create")
@click.argument("name")
@scope_option
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="It ends after 30d.")
@by_option
@json_option
@click.pass_obj
def create(
    installation: Installation,
    name: str,
    scope: str,
    seconds: float | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Make a token. It is shown once: only its hash is kept."""
    until = None if seconds is None else time.time() + seconds
    text = _accounts(installation).create_token(
        name,
        scope,
        by=by or default_author(),
        until_ms=None if until is None else int(until * 1000),
    )
    told = {"name": name, "scope": scope, "until": until, "token": text}
    if as_json:
        answer(told, True, lambda: "")
        return
    # Alone on standard output, for TOKEN=$(coordinator web token create ...).
    click.echo(f"token {name} ({scope}); it is not shown again:", err=True)
    click.echo(text)


@token.command("list")
@json_option
@click.pass_obj
def listing(installation: Installation, as_json: bool) -> None:
    """List the tokens, without what they call with."""
    tokens = installation.records.store.tokens()
    found = [
        {
            "name": one.name,
            "scope": one.scope,
            "created_by": one.created_by,
            "created_at": one.created_ms / 1000,
            "until": _seconds(one.until_ms),
            "used_at": _seconds(one.used_ms),
        }
        for one in tokens
    ]
    lines = [
        (
            one.name,
            one.scope,
            one.created_by,
            *(shown_moment(_seconds(at)) for at in (one.created_ms, one.until_ms, one.used_ms)),
        )
        for one in tokens
    ]
    columns = ("token", "scope", "made by", "made", "ends", "used last")
    answer(found, as_json, lambda: rows(columns, lines))


@token.command("revoke")
@click.argument("name")
@by_option
@json_option
@click.pass_obj
def revoke(installation: Installation, name: str, by: str | None, as_json: bool) -> None:
    """Take a token back: it is refused from now on."""
    _accounts(installation).revoke_token(name, by=by or default_author())
    answer({"revoked": name}, as_json, lambda: f"token {name} is revoked")


@click.group("user", cls=ErrorsShown)
def user() -> None:
    """Users: who may log in."""


@user.command("add")
@click.argument("name")
@scope_option
@password_option
@by_option
@json_option
@click.pass_obj
def add(
    installation: Installation,
    name: str,
    scope: str,
    password_stdin: bool,
    by: str | None,
    as_json: bool,
) -> None:
    """Let somebody log in; asks for the password."""
    accounts = _accounts(installation)
    accounts.add_user(name, _password(password_stdin), scope, by=by or default_author())
    answer({"user": name, "scope": scope}, as_json, lambda: f"user {name} may log in as {scope}")


@user.command("list")
@json_option
@click.pass_obj
def users(installation: Installation, as_json: bool) -> None:
    """List who may log in."""
    found = installation.records.store.users()
    told = [
        {"name": one.name, "scope": one.scope, "created_at": one.created_ms / 1000} for one in found
    ]
    lines = [(one.name, one.scope, shown_moment(one.created_ms / 1000)) for one in found]
    answer(told, as_json, lambda: rows(("user", "scope", "added"), lines))


@user.command("remove")
@click.argument("name")
@by_option
@json_option
@click.pass_obj
def remove(installation: Installation, name: str, by: str | None, as_json: bool) -> None:
    """Take a user away; their sessions end at once."""
    _accounts(installation).remove_user(name, by=by or default_author())
    answer({"removed": name}, as_json, lambda: f"user {name} is removed")


@user.command("password")
@click.argument("name")
@password_option
@by_option
@json_option
@click.pass_obj
def password(
    installation: Installation, name: str, password_stdin: bool, by: str | None, as_json: bool
) -> None:
    """Replace a user's password; their sessions end at once."""
    accounts = _accounts(installation)
    accounts.set_password(name, _password(password_stdin), by=by or default_author())
    answer({"changed": name}, as_json, lambda: f"user {name} has a new password")


def _seconds(at_ms: int | None) -> float | None:
    return None if at_ms is None else at_ms / 1000


def _password(from_stdin: bool) -> str:
    # Never an option: everybody on the machine can read command lines.
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    given: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return given

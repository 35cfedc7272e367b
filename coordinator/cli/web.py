"""``coordinator web``: the HTTP API and the console."""

from __future__ import annotations

import click

from coordinator.cli import tokens
from coordinator.cli.installation import Installation
from coordinator.cli.output import ErrorsShown

#: As ``coordinator.web.server`` has them, which is not imported for a help text.
HOST, PORT = "127.0.0.1", 8770


@click.group(
    "web",
    short_help="Serve the HTTP API and the console",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@click.option(
    "--host",
    default=HOST,
    show_default=True,
    help="Where it listens. It speaks no TLS: before others reach it, put a proxy there that does.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="TCP.")
@click.option(
    "--proxy",
    metavar="ADDRESS",
    help="Take the word of a proxy at this address for who calls (X-Forwarded-For).",
)
@click.pass_context
def command(ctx: click.Context, host: str, port: int, proxy: str | None) -> None:
    """Serve the HTTP API and the console (/console/) until Ctrl-C; or make tokens and users for them."""
    if ctx.invoked_subcommand is not None:
        return
    try:
        from coordinator.web.application import create
        from coordinator.web.server import serve
    except ModuleNotFoundError as error:
        raise tokens.needed() from error
    installation: Installation = ctx.obj
    # Redis and the database may be away: then requests are answered with 503 until they are back.
    serve(create(installation.records, installation.app), host, port, proxy)


command.add_command(tokens.token)
command.add_command(tokens.user)

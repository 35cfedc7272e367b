"""``coordinator up``: everything one machine needs, until it is stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import DEFAULT_APP, Installation
from coordinator.cli.output import console, json_line, json_option
from coordinator.errors import CoordinatorError, Refused, StoreUnavailable

if TYPE_CHECKING:
    from coordinator.machine.display import Display
    from coordinator.machine.snapshot import Snapshot, Source
    from coordinator.machine.supervisor import Supervisor

#: Seconds between two snapshots.
SNAPSHOT_SECONDS = 1.0


class StopRequests:
    """Counts Ctrl-C, SIGTERM and the terminal's end: once is politely, twice is now."""

    def __init__(self) -> None:
        self._count = 0
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._received)

    def any(self) -> bool:
        return self._count > 0

    def urgent(self) -> bool:
        return self._count > 1

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self._event.set()


@click.command("up", short_help="Run everything here under one supervisor")
@click.option(
    "--until-generation",
    type=click.IntRange(min=1),
    metavar="N",
    help="End with a summary once every model has reached generation N.",
)
@click.option("--no-flower", is_flag=True, help="Leave Flower out.")
@click.option("--no-web", is_flag=True, help="Leave the HTTP API and the console out.")
@click.option("--plain", is_flag=True, help="Lines instead of a screen, on a terminal too.")
@json_option
@click.pass_obj
def command(
    installation: Installation,
    until_generation: int | None,
    no_flower: bool,
    no_web: bool,
    plain: bool,
    as_json: bool,
) -> None:
    """Run everything here: Redis, workers, beat, Flower, the HTTP API and the console. Ctrl-C stops it."""
    from coordinator.machine.programs import has_web, with_queues
    from coordinator.machine.snapshot import summary_of
    from coordinator.machine.supervisor import Supervisor

    summary = summary_of(installation.app)
    if until_generation is not None and summary is None:
        raise click.UsageError("--until-generation: the app names no coordinator_summary")
    requests = StopRequests()
    last: Snapshot | None = None
    # Without its packages it is left out: they are an extra.
    coordination = getattr(installation.app, "coordination", None)
    web = not no_web and has_web() and coordination is not None
    declared = coordination.queues() if coordination is not None else ()
    settings = with_queues(installation.settings, declared)
    with Supervisor(settings, installation.name, flower=not no_flower, web=web) as supervisor:
        if supervisor.prepare(lambda: _say("waiting for an earlier run here to end")):
            _start_over()
        try:
            supervisor.start(canceled=requests.any)
        except Refused:
            if not requests.any():
                raise
        else:
            addresses = supervisor.addresses()
            login = _first_admin(installation) if web else {}
            if not as_json:
                _say_all(addresses)
            _say_all(login)
            # In lines of JSON, which are kept, the password would be repeated with each of them.
            shown = addresses if as_json else {**addresses, **login}
            source = _source(installation.app, supervisor, shown, summary)
            last = _watch(
                source, display_of(plain, as_json), supervisor, requests, until_generation
            )
        _say("stopping (Ctrl-C again: at once, running jobs go back to waiting)")
        supervisor.stop(hurry=requests.urgent)
    if last is not None:
        _summarize(last, as_json)
    _say(f"stopped; everything is kept in {supervisor.data_dir}")
    _say(f"continue with: {_again(installation)}")


def _watch(
    source: Source,
    display: Display,
    supervisor: Supervisor,
    requests: StopRequests,
    until_generation: int | None,
) -> Snapshot:
    with display:
        while True:
            snapshot = source()
            display.show(snapshot)
            if until_generation is not None and snapshot.reached(until_generation):
                return snapshot
            if requests.any():
                return snapshot
            if not supervisor.alive():
                raise CoordinatorError(
                    "the process supervisor has ended unexpectedly, and all processes with it; see "
                    f"{supervisor.data_dir / 'logs' / 'supervisord.log'} and start again"
                )
            requests.wait(SNAPSHOT_SECONDS)


def _first_admin(installation: Installation) -> dict[str, str]:
    """Let an admin log in to the console where nobody may yet; return what to say of it."""
    from coordinator.author import default_author
    from coordinator.web.accounts import FIRST, Accounts

    try:
        password = Accounts(installation.records.store).add_first(by=default_author())
    except StoreUnavailable as error:
        return {"login": f"nobody was added ({error}); coordinator web user add NAME --scope admin"}
    if password is None:
        return {}
    return {"login": f"user {FIRST}, password {password} (the first admin; shown this once)"}


def _source(app: Any, supervisor: Supervisor, addresses: dict[str, str], summary: Any) -> Source:
    from coordinator.machine.snapshot import Source

    coordination = getattr(app, "coordination", None)
    return Source(
        supervisor.processes,
        addresses,
        work_queue=coordination.work_queue if coordination else None,
        summary=summary,
    )


def display_of(plain: bool, as_json: bool) -> Display:
    from coordinator.machine.display import JsonLines, Lines, Screen

    if as_json:
        return JsonLines(sys.stdout)
    if plain or not sys.stdout.isatty():
        return Lines(sys.stdout)
    return Screen(console())


def _summarize(snapshot: Snapshot, as_json: bool) -> None:
    from coordinator.machine.display import models_table

    if as_json:
        json_line({"summary": list(snapshot.models)})
    elif snapshot.models:
        console().print(models_table(snapshot.models))


def _start_over() -> None:
    # The app was loaded with the address that Redis had to leave; loaded again, it has the new one.
    _say("another program listens on the port of the embedded Redis: it moves to a new one")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _again(installation: Installation) -> str:
    name = installation.name
    return "coordinator up" if name == DEFAULT_APP else f"coordinator -A {name} up"


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_all(addresses: dict[str, str]) -> None:
    for name, where in addresses.items():
        _say(f"{name:9}{where}")

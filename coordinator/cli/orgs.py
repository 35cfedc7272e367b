"""``coordinator orgs``, ``set-limit``, ``reset-limit`` and ``throttle``: fair shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    DURATION,
    How,
    audited,
    bulk_options,
    confirm,
    queue_option,
)
from coordinator.cli.output import ErrorsShown, answer, json_option, rows
from coordinator.moments import shown_moment
from coordinator.resources import SERIAL_RESOURCE

if TYPE_CHECKING:
    from coordinator.operations.shares import LimitReset, OrgShare
    from coordinator.work_queue import WorkQueue

on_queue = click.option(
    "-Q", "--queue", metavar="QUEUE", help="On this queue; by default on all there are."
)


@click.group(
    "orgs",
    short_help="Show what each org uses, and its limits",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@click.option("--org", metavar="ORG", help="Only this org.")
@queue_option
@json_option
@click.pass_context
def orgs(ctx: click.Context, org: str | None, queue: str | None, as_json: bool) -> None:
    """Show what each org uses of each queue, its limit there, and where that comes from."""
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.work_queue.get_org_usage(org, queue)
    answer(found, as_json, lambda: _table(found))


def _table(found: list[OrgShare]) -> Any:
    if not found:
        return "no org has jobs or a limit of its own"
    lines = []
    for share in found:
        until = f" until {shown_moment(share.until)}" if share.until else ""
        limit = "-" if share.limit is None else share.limit
        percent = "-" if share.percent is None else f"{share.percent:.0f} %"
        counts = (share.running, share.waiting, percent, limit)
        lines.append((share.org, share.queue, *counts, f"{share.source}{until}", share.weight))
    return rows(("org", "queue", "running", "waiting", "share", "limit", "set by", "weight"), lines)


@orgs.command("weigh")
@click.argument("org")
@click.argument("weight", type=click.IntRange(min=1), required=False)
@click.option("--reset", is_flag=True, help="Back to the configured weight.")
@audited
@click.pass_obj
def weigh(
    installation: Installation,
    org: str,
    weight: int | None,
    reset: bool,
    how: How,
) -> None:
    """Set an org's turns: with weight 2 it starts twice as many jobs as one with weight 1."""
    if (weight is not None) == reset:
        raise click.UsageError("give a weight, or --reset")
    work_queue = installation.work_queue
    work_queue.weigh(org, weight, **how.signed)
    work_queue.catch_up()
    now = work_queue.ledger.weights().get(org, 1)
    answer({"org": org, "weight": now}, how.as_json, lambda: f"org {org} has weight {now}")


@click.command("set-limit", short_help="Set how many jobs run at once: of an org, of any")
@click.argument("what")
@click.argument("limit", type=click.IntRange(min=0))
@on_queue
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="Only for 90s, 2h ...")
@audited
@click.pass_obj
def set_limit(
    installation: Installation,
    what: str,
    limit: int,
    queue: str | None,
    seconds: float | None,
    how: How,
) -> None:
    """Set how many jobs may run at once: of an org, or of any resource.

    WHAT is an org, or a resource such as model:ranker, queue:training or integration:db. Running jobs
    go on.
    """
    work_queue = installation.work_queue
    until = _until(work_queue, seconds)
    if ":" not in what and what != SERIAL_RESOURCE:
        names = work_queue.limit_org(what, limit, queue, until_ms=until, **how.signed)
    else:
        if queue is not None:
            raise click.UsageError("--queue goes with an org")
        work_queue.limit(what, limit, until_ms=until, **how.signed)
        work_queue.catch_up()
        names = (what,)
    _told(names, limit, until, how.as_json)


@click.command("throttle", short_help="Lower an org's limit for a while")
@click.argument("org")
@click.argument("to")
@click.option(
    "--for",
    "seconds",
    type=DURATION,
    required=True,
    metavar="DURATION",
    help="For how long: 90s, 2h ...",
)
@on_queue
@audited
@click.pass_obj
def throttle(
    installation: Installation,
    org: str,
    to: str,
    seconds: float,
    queue: str | None,
    how: How,
) -> None:
    """Lower an org's limit for a while: TO is a number of jobs, or a part of its limit such as 25%."""
    number, percent = _part(to)
    work_queue = installation.work_queue
    until = _until(work_queue, seconds)
    names = work_queue.throttle_org(
        org, number, queue, percent=percent, until_ms=until, **how.signed
    )
    limits = work_queue.ledger.limits(names)
    told = {name: limits[name].value for name in names}
    text = "\n".join(
        f"{name} may run {value} at once until {shown_moment(until / 1000)}; "
        f"coordinator reset-limit {org} ends it"
        for name, value in told.items()
    )
    answer({"limits": told, "until": until / 1000}, how.as_json, lambda: text)


@click.command("reset-limit", short_help="Take back limits that were set")
@click.argument("what", metavar="[ORG|RESOURCE]", required=False)
@on_queue
@bulk_options
@click.pass_obj
def reset_limit(
    installation: Installation,
    what: str | None,
    queue: str | None,
    how: How,
) -> None:
    """Take back limits that were set, temporary ones too: of an org, of one resource, or of all orgs.

    Without --queue on all queues. Asks when it is about all orgs.
    """
    work_queue = installation.work_queue
    one = what is not None and (":" in what or what == SERIAL_RESOURCE)
    if one and queue is not None:
        raise click.UsageError("--queue goes with an org")
    chosen: dict[str, Any] = {"resource": what} if one else {"org": what, "queue": queue}
    preview = work_queue.reset_limits(**chosen, dry_run=True)
    if how.dry_run or not preview.resources:
        _reset_told(preview.resources, how)
        return
    if what is None and not how.yes:
        confirm(f"Reset {len(preview.resources)} limits ({', '.join(preview.resources[:5])} ...)?")
    done_all: LimitReset = work_queue.reset_limits(**chosen, **how.signed)
    _reset_told(done_all.resources, how)


def _part(text: str) -> tuple[int | None, float | None]:
    try:
        if text.endswith("%"):
            return None, float(text[:-1])
        return int(text), None
    except ValueError:
        raise click.UsageError(
            f"{text!r} is neither a number of jobs nor a part such as 25%"
        ) from None


def _until(work_queue: WorkQueue, seconds: float | None) -> int:
    return 0 if seconds is None else work_queue.ledger.clock() + int(seconds * 1000)


def _told(names: tuple[str, ...], limit: int, until: int, as_json: bool) -> None:
    ends = f" until {shown_moment(until / 1000)}" if until else ""
    told = {"limits": dict.fromkeys(names, limit), "until": until / 1000 if until else None}
    answer(told, as_json, lambda: "\n".join(f"{name}: {limit} at once{ends}" for name in names))


def _reset_told(names: tuple[str, ...], how: How) -> None:
    verb = "would be reset" if how.dry_run else "is reset"
    text = "\n".join(f"{name} {verb}" for name in names) or "no limit was set"
    answer({"reset": names, "dry_run": how.dry_run}, how.as_json, lambda: text)


commands = (orgs, set_limit, reset_limit, throttle)

"""The ledger's lives: epochs, what is restored into them, the events they leave, and singletons' terms."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.errors import LedgerUnavailable
from coordinator.jobs import Event
from coordinator.ledger.absence import reaching
from coordinator.ledger.jobs import described
from coordinator.ledger.scripts import Scripts
from coordinator.resources import reason_text
from coordinator.states import FINAL

logger = logging.getLogger("coordinator")

#: Events that one script forgets.
SETTLED = 100


class Epochs(Scripts):
    """The verbs of restore and recorder."""

    def epoch(self) -> int | None:
        """Return the present epoch, or None when the ledger has none for this life of the server.

        Raises:
            LedgerUnavailable: Redis was not reached.
        """
        with reaching(), self._connection() as connection:
            connection.send_command("HMGET", f"{self.prefix}meta", "epoch", "run_id", "open")
            epoch, run_id, state = connection.read_response()
            current = run_id == connection.coordinator_run_id and state != "building"
        return int(epoch) if epoch and current else None

    def open(self, epoch: int, state: str = "1", awaited: Sequence[str] = ()) -> None:
        """Open an epoch for this life of the server; see ``lua/open.lua``.

        Args:
            epoch: greater than every one before.
            state: ``building``, ``0`` (workers report, nobody is admitted) or ``1`` (open).
            awaited: workers to wait for, one lease at most; while building, the one who builds.

        Raises:
            LedgerClosed: somebody else builds, or has built, a later one.
        """
        with reaching():
            self.load()
        self.run("open", epoch, state, *awaited)

    def open_for_workers(self, epoch: int, awaited: Sequence[str]) -> None:
        """End building; admission opens when these workers have reported, or after one lease."""
        self.open(epoch, "0", awaited)
        if not awaited:
            self.run("tick")

    def restore(
        self,
        epoch: int,
        jobs: Sequence[Any],
        entered: int = 0,
        of: int = 0,
        ended: Mapping[str, str] | None = None,
    ) -> None:
        """Enter unfinished jobs (``store.StoredJob``) into a ledger that is being built.

        Args:
            epoch: the one that is being built.
            jobs: some of the jobs.
            entered, of: how many are in with these, of how many, for people who wait.
            ended: jobs that are over although their row does not say so, and the verb of that end.
        """
        arguments: list[str | int | float] = [epoch, entered, of]
        for item in jobs:
            job = item.job
            arguments += (
                *described(job),
                item.sequence,
                item.attempts,
                item.losses,
                (ended or {}).get(item.job.job_id, item.state.value),
                item.worker or "",
                item.token or 0,
                "" if item.stop is None else json.dumps(item.stop),
            )
        self.run("restore", *arguments)

    def restoring(self) -> tuple[int, int, int] | None:
        """Return jobs entered, jobs to enter and workers awaited while admission is closed, else None."""
        names = ("open", "restored", "restorable")
        state, entered, of = self.redis.hmget(f"{self.prefix}meta", *names)
        if state not in ("building", "0"):
            return None
        return int(entered or 0), int(of or 0), int(self.redis.scard(f"{self.prefix}awaited"))

    def lease_ms(self) -> int:
        """Return the lease as configured in the ledger, in milliseconds."""
        return int(self.redis.hget(f"{self.prefix}defaults", "lease_ms") or 30_000)

    def known_workers(self) -> set[str]:
        """Return the workers of the ledger, whatever life of the server it is of."""
        return set(self.redis.zrange(f"{self.prefix}workers", 0, -1))

    def wipe(self, holder: str) -> None:
        """Delete everything but the terms of singletons and the events that are left.

        Raises:
            LedgerClosed: ``holder`` does not hold the term of the restore any more.
        """
        cursor = "0"
        while True:
            cursor = self.run("wipe", holder, cursor)["cursor"]
            if cursor == "0":
                return

    def last_event(self) -> tuple[int, str]:
        """Return the epoch and the id of the last event ever written; (0, "") when there is none."""
        epoch = int(self.redis.hget(f"{self.prefix}meta", "epoch") or 0)
        if not self.redis.exists(f"{self.prefix}events"):
            return epoch, ""
        return epoch, self.redis.xinfo_stream(f"{self.prefix}events")["last-generated-id"]

    def forget_events(self, event_ids: Sequence[str]) -> None:
        """Delete some events, in a ledger that is closed."""
        if event_ids:
            self.redis.xdel(f"{self.prefix}events", *event_ids)

    def watch_memory(self, percent: float) -> tuple[bool, bool]:
        """Refuse new jobs while Redis uses more than a part of its ``maxmemory``.

        Args:
            percent: from where on; they are taken again 5 below.

        Returns:
            Whether new jobs are refused, and whether that has changed.
        """
        info = self.redis.info("memory")
        used, allowed = int(info["used_memory"]), int(info.get("maxmemory") or 0)
        answer = self.run("watermark", used, allowed, percent, percent - 5)
        return bool(answer["full"]), bool(answer["changed"])

    def note_drift(self, number: int) -> None:
        """Keep how many differences a verification has found."""
        self.run("verified", number)

    def drift(self) -> tuple[int, int] | None:
        """Return what the last verification found and when (Unix milliseconds); None before the first."""
        number, at = self.redis.hmget(f"{self.prefix}meta", "drift", "verified")
        return None if at is None else (int(number), int(at))

    def elect(self, name: str, holder: str, ttl_ms: int) -> bool:
        """Take or extend a singleton's term; False when somebody else holds it."""
        return bool(self.run("elect", name, holder, ttl_ms)["answer"] == "yes")

    def resign(self, name: str, holder: str) -> None:
        """Give up a singleton's term, so that nobody need wait for its end; without Redis it ends by itself."""
        try:
            self.run("elect", name, holder, 0)
        except LedgerUnavailable as error:
            # What was done in the term is done: its caller must not be told that it was not.
            logger.debug(
                "[COORDINATOR] the term of %s (%s) ends by itself: %s", name, holder, error
            )

    def read_events(self, count: int, after: str = "") -> list[Event]:
        """Return the oldest events that were not settled.

        Args:
            count: events at most, or one more.
            after: id of an event; only later ones.
        """
        name = f"{self.prefix}events"
        reads = self.redis.pipeline(transaction=False)
        reads.hget(f"{self.prefix}meta", "epoch").xrange(
            name, min=f"({after}" if after else "-", count=count
        )
        epoch, entries = reads.execute()
        # The end of a workflow's step and the next step go to the store together: with the one alone, a Redis that is
        # wiped now would leave an execution that nobody continues.
        while entries and '"next":' in entries[-1][1].get("data", ""):
            more = self.redis.xrange(name, min=f"({entries[-1][0]}", count=1)
            if not more:
                break
            entries += more
        return [_event(int(epoch or 0), entry_id, fields) for entry_id, fields in entries]

    def await_events(self, seconds: float) -> bool:
        """Wait until there are events that were not settled; return whether there are.

        Args:
            seconds: to wait at most; less than a reply may take.
        """
        name = f"{self.prefix}events"
        return bool(self.redis.xread({name: "0"}, count=1, block=max(1, int(seconds * 1000))))

    def settle(self, events: Sequence[Event]) -> None:
        """Forget events the store has committed, and the tombstones of the jobs they ended."""
        calls: list[tuple[str | int, ...]] = []
        for start in range(0, len(events), SETTLED):
            piece = events[start : start + SETTLED]
            ended = [event for event in piece if event.data.get("state") in FINAL]
            pairs = [part for event in ended for part in (event.job_id, event.version)]
            calls.append((piece[-1].event_id, *pairs))
        self.run_all("settle", calls)


def _event(epoch: int, event_id: str, fields: dict[str, str]) -> Event:
    try:
        return _parsed(epoch, event_id, fields)
    except (KeyError, ValueError, TypeError):
        # One damaged entry must not stop the recording of all others: the recorder sets it aside.
        return Event(epoch, event_id, "", "", 0, 0, {"damaged": fields})


def _parsed(epoch: int, event_id: str, fields: dict[str, str]) -> Event:
    data = json.loads(fields["data"]) or {}
    if not isinstance(data, dict):
        data = {}
    if "token" in data:
        data["token"] = int(data["token"])
    if "sequence" in data:
        data["sequence"] = int(data["sequence"])
    if "row" in fields:
        data["row"] = {**json.loads(fields["row"]), "message": fields["message"]}
    verb = fields["verb"]
    if verb == "blocked":
        data["reason"] = reason_text(data["resource"], data["code"], data.get("holders") or ())
    return Event(
        int(fields.get("epoch", epoch)),
        event_id,
        verb,
        fields["job"],
        int(fields["version"]),
        int(fields["at"]),
        data,
    )

"""What there is to share: workers and their leases, holds, limits and weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from coordinator.ledger.answers import Renewal
from coordinator.ledger.scripts import Scripts, encoded

#: Pieces of work that one call of ``tick`` does at most.
PIECES = 25

#: Author and reason of the hold that a run which fails brings back while a circuit breaker probes.
PROBE_FAILED = ("panic:breaker", "a probe failed")


class Capacity(Scripts):
    """The verbs of workers and resources; each is one script."""

    def renew(
        self,
        worker: str,
        queues: Iterable[str],
        slots: int,
        busy: int = 0,
        hand: Iterable[tuple[str, int]] = (),
        report: dict[str, Any] | None = None,
        register: bool = False,
        patience: float | None = None,
        unbegun: Collection[str] = (),
    ) -> Renewal:
        """Extend a worker's lease and all its jobs with it.

        Args:
            worker: the worker's id, unique to this life of its process.
            queues: what it consumes.
            slots: jobs it can run at once.
            busy: slots taken by work the ledger does not know.
            hand: (job id, token) of every coordinated message it has, begun or not.
            report: what people want to know: node name, host, pid, pool, version.
            register: whether it starts, or has ended all jobs it had.
            unbegun: jobs among ``hand`` that certainly have not begun: a ledger that was restored must not take them
                for running.
        """
        described = [
            part
            for job_id, token in hand
            for part in (job_id, token, "" if job_id in unbegun else "1")
        ]
        answer = self.run(
            "renew",
            worker,
            "1" if register else "",
            slots,
            busy,
            " ".join(sorted(queues)),
            json.dumps(report or {}),
            *described,
            patience=patience,
        )
        return Renewal(
            answer["answer"],
            answer.get("stop") or {},
            tuple(answer.get("lost") or ()),
            int(answer.get("lease_ms") or 0),
            answer.get("silent") or {},
            int(answer.get("unfetched") or 0),
            int(answer.get("workers") or 1),
        )

    def leave(self, worker: str, reason: str = "left", patience: float | None = None) -> None:
        """End a worker; what it had goes back. Any reason but ``left`` counts as a lost run."""
        while self.run("leave", worker, reason, patience=patience).get("more"):
            pass

    def tick(self, patience: float | None = None) -> dict[str, Any]:
        """Do what is due: leases, delayed jobs, ends of holds and limits, pending wakes.

        Each script does a piece; when more is due than ``PIECES`` of them can do, the answer says ``more``.
        """
        for _ in range(PIECES):
            answer = dict(self.run("tick", patience=patience))
            if not answer.get("more"):
                break
        return answer

    def hold(
        self,
        resource: str,
        by: str,
        reason: str = "",
        until_ms: int | None = None,
        beneath: Mapping[str, Any] | None = None,
    ) -> None:
        """Hold a resource: nothing that needs it starts after this returned.

        Args:
            resource: what; a hold that it has is replaced.
            by, reason: kept with it.
            until_ms: when it ends by itself (Unix milliseconds); None is never.
            beneath: the hold that is there again after this one, kept with it for whoever ends it.
        """
        note: dict[str, Any] = {"by": by, "reason": reason}
        if until_ms:
            note["until_ms"] = until_ms
        if beneath:
            note["beneath"] = dict(beneath)
        self.run("hold", resource, encoded(note))

    def resume(self, resource: str, by: str, reason: str = "") -> bool:
        """End a hold; False when there was none."""
        return bool(self.run("resume", resource, by, reason)["answer"] == "done")

    def limit(
        self, resource: str, value: int | None, by: str, reason: str = "", until_ms: int = 0
    ) -> None:
        """Set the limit of a resource, or reset it to the configured one with None (with a time only the override)."""
        self.run("limit", resource, "" if value is None else value, until_ms, by, reason)

    def probe(self, resource: str, hold_by: str, hold_reason: str, by: str, reason: str) -> None:
        """Begin the probing of a resource: its hold ends, and the next run that fails brings this one back."""
        note = {"by": hold_by, "reason": hold_reason}
        self.run("probe", resource, encoded(note), by, reason)

    def end_probing(self, resource: str) -> None:
        """Let runs that fail bring no hold back any more."""
        self.run("probe", resource, "", "", "")

    def probing(self, resource: str) -> bool:
        """Whether the next run that fails on a resource brings a hold back."""
        return bool(self.redis.hexists(f"{self.prefix}probing", resource))

    def weigh(self, org: str, weight: int | None, by: str, reason: str = "") -> None:
        """Set the weight of an org's turns: one of weight 2 starts twice as many jobs. None resets it."""
        self.limit(f"weight:{org}", weight, by, reason)

    def configure(self, values: dict[str, str], complete: bool = False) -> None:
        """Set configured limits and times; an empty value removes one.

        Args:
            values: by name.
            complete: whether what is not among them is no longer configured, and removed.
        """
        if complete:
            known = self.redis.hkeys(f"{self.prefix}defaults")
            values = {**dict.fromkeys(known, ""), **values}
        self.run("configure", *[part for pair in values.items() for part in pair])

"""``python -m benchmarks peers``: the workloads side by side with other projects' queues."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.workload import Case, Sizes, Workload
from benchmarks.workloads import backlog, contended, fairness, handoff, recovery, throughput, wiped

_OWN = ("coordinated", "coordinated-redis")
_RECIPE = "celery-lock01"
_PLAIN = tuple(name for name, peer in PEERS.items() if not peer.locked)
_LOCKED = tuple(name for name, peer in PEERS.items() if peer.locked)

#: Blocked jobs at most for the recipes that try again and again: far fewer keep all their workers busy already.
RETRYING = dict.fromkeys((_RECIPE, "dramatiq-mutex", "huey-lock", "bullmq-lock"), 10_000)

_NOTE = (
    " Peers are run as their documentation begins, from an installation of their own; what they have for one job per "
    "model is in the name (*limit*, *mutex*, *lock*, *queues*), the bare names have no per-key exclusion."
)


def _cases(names: Sequence[str]) -> Callable[[Sizes], Sequence[Case]]:
    return lambda _: [Case(name, name) for name in names]


def _blocked(sizes: Sizes) -> list[Case]:
    levels = {
        name: (0, min(sizes["blocked"], RETRYING.get(name, sizes["blocked"])))
        for name in sizes["systems"]
    }
    return [
        Case(f"{name}, {blocked:,} blocked", name, {"blocked": blocked})
        for name, found in levels.items()
        for blocked in found
    ]


def _handoff(_: Sizes) -> list[Case]:
    return [
        Case("celery", "celery", {"slots": 1}),
        *(Case(name, name) for name in (*_OWN, _RECIPE, *_LOCKED)),
    ]


def _compared(workload: Workload, sizes: dict[str, Any], **changes: Any) -> Workload:
    text = workload.text + _NOTE
    return dataclasses.replace(
        workload, text=text, sizes={**workload.sizes, **sizes}, **{"runs": 1, **changes}
    )


def compared(blocked: int = 100_000) -> dict[str, Workload]:
    """Return the workloads with all systems, small enough for half an hour on two cores.

    Args:
        blocked: jobs in the blocked backlog.
    """
    names = ("coordinated", _RECIPE, *_LOCKED)
    quick = {**backlog.WORKLOAD.quick, "blocked": min(blocked, 200), "systems": names}
    found = (
        _compared(
            throughput.WORKLOAD,
            {"jobs": 1_000},
            quick={"jobs": 100, "slots": 2, "limit": 90},
            cases=_cases(("celery", *_OWN, _RECIPE, *_PLAIN)),
            runs=3,
        ),
        _compared(
            contended.WORKLOAD, {}, cases=_cases(("celery", *_OWN, _RECIPE, *_PLAIN, *_LOCKED))
        ),
        _compared(handoff.WORKLOAD, {"jobs": 150, "pairs": 8}, cases=_handoff),
        _compared(
            backlog.WORKLOAD,
            {
                "blocked": blocked,
                "systems": names,
                "probes": 20,
                "idle": 4.0,
                "settle": 2.0,
                "patience": 10.0,
            },
            quick=quick,
            cases=_blocked,
            bars=lambda _: (),
        ),
        _compared(fairness.WORKLOAD, {}, cases=_cases(("celery", "coordinated", *_PLAIN))),
        _compared(
            recovery.WORKLOAD,
            {},
            cases=_cases(("celery", "coordinated", _RECIPE, *_LOCKED)),
            together=True,
        ),
        _compared(wiped.WORKLOAD, {}, cases=_cases(("celery", *_OWN, _RECIPE, *_LOCKED))),
    )
    return {workload.name: workload for workload in found}

"""Drills by jobs: those that kill their process, and messages that come twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

from tests.chaos.cluster import Cluster
from tests.chaos.drills.registry import drill
from tests.helpers import ROOT, eventually


def ask(cluster: Cluster, code: str) -> Any:
    """Run code with the app in a process of its own; return what it printed as JSON."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=cluster.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@drill(runs_killed=True, slots=2)
def deadly_jobs(cluster: Cluster, choice: random.Random) -> str:
    """os._exit, a segmentation fault, out of memory: ended by their attempts, with result and chord."""
    load = cluster.produce(60, choice.randrange(1 << 30))
    states = ask(
        cluster,
        """
import json
from celery import chord
from tests.chaos.app import app, die, work, collect
jobs = {how: die.apply_async((how,), models=["deadly-" + how]) for how in ("exit", "segfault", "memory")}
whole = chord([work.s(0.01).set(models=["c1"]), die.s("exit").set(models=["c2"])], collect.s())()
states = {}
for how, job in jobs.items():
    try:
        job.get(timeout=60)
    except Exception as error:
        states[how] = type(error).__name__
try:
    whole.get(timeout=60)
except Exception as error:
    states["chord"] = type(error).__name__
store = app.coordination.work_queue.store
states["ids"] = [job.id for job in jobs.values()]
print(json.dumps(states))
""",
    )
    ids = states.pop("ids")
    assert set(states) == {"exit", "segfault", "memory", "chord"}, states

    def rows() -> dict[str, tuple[str, int]]:
        found = {
            job: (str(row.state), row.losses) for job, row in cluster.store.stored(ids).items()
        }
        assert all(state in ("unprocessable", "failed") for state, _ in found.values()), found
        return found

    ended = eventually(rows, 30)
    runs = {job: len([run for run in cluster.runs() if run.job == job]) for job in ids}
    assert all(number == 4 for number in runs.values()), f"runs by job: {runs}"
    load.wait(60)
    cluster.ended |= set(ids)
    return ", ".join(
        f"{how}: {state}" for how, (state, _) in zip(states, ended.values(), strict=False)
    )


@drill()
def duplicates(cluster: Cluster, choice: random.Random) -> str:
    """Each message that is in the broker's lists is pushed again, some of them twice."""
    cluster.produce(200, choice.randrange(1 << 30), "--pause", "0.002")
    pushed = 0
    while cluster.completed() < 180:
        for queue in ("selfplay", "training"):
            # Each message once, however often it was pushed before: else they would double each time.
            for message in set(cluster.ledger.redis.lrange(queue, 0, -1)):
                for _ in range(choice.choice((1, 2))):
                    cluster.ledger.redis.lpush(queue, message)
                    pushed += 1
        cluster.await_completed(cluster.completed() + 1)
    assert pushed > 10, f"only {pushed} duplicates were pushed"
    return f"{pushed} duplicates"


@drill(environment={"CHAOS_VISIBILITY": "2"})
def visibility(cluster: Cluster, choice: random.Random) -> str:
    """Jobs that run for longer than the broker's visibility timeout run exactly once."""
    cluster.produce(8, choice.randrange(1 << 30), "--shortest", "8", "--longest", "12")
    cluster.produce(60, choice.randrange(1 << 30), "--models", "200")
    counts = cluster.settle(120)
    runs = len(cluster.runs())
    assert runs == counts.accepted == 68, f"{runs} runs of {counts.accepted} jobs"
    return f"{runs} runs"


@drill(environment={"CHAOS_VISIBILITY": "10"})
def visibility_long(cluster: Cluster, choice: random.Random) -> str:
    """A job of three minutes runs once although the broker's visibility timeout is ten seconds."""
    cluster.produce(1, choice.randrange(1 << 30), "--shortest", "180", "--longest", "180")
    cluster.produce(60, choice.randrange(1 << 30), "--models", "200")
    counts = cluster.settle(240)
    runs = cluster.runs()
    longest = max((run.ended or run.start) - run.start for run in runs)
    assert longest >= 180, f"the longest run took {longest:.0f} s"
    assert len(runs) == counts.accepted == 61, f"{len(runs)} runs of {counts.accepted} jobs"
    return f"{len(runs)} runs, one of {longest:.0f} s"

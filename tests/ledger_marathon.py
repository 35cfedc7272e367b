"""Random schedules with faults between any two operations: ``python -m tests.ledger_marathon --schedules N``.

Each schedule has a seed of its own, printed when it fails, with which it runs again alone (``--seed S
--schedules 1``). Ends with exact counts and exit status 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from typing import Any

import redis

from tests.helpers import eventually, free_port, redis_executable, running
from tests.ledger_world import World

#: Steps from one verification of the whole ledger to the next: the length of a schedule counts more.
EVERY = 7


class Schedule:
    """One random order of operations on a world of its own."""

    def __init__(self, url: str, seed: int, steps: int) -> None:
        self.random = random.Random(seed)
        orgs = self.random.choice([(None,), ("acme",), ("acme", "ümlaut", None)])
        self.world = World(url, orgs, every=EVERY)
        self.steps = steps

    def spec(self) -> dict[str, Any]:
        draw = self.random
        return {
            "models": [draw.randrange(4) for _ in range(draw.choice([0, 1, 1, 1, 2, 3]))],
            "queue": draw.randrange(3),
            "priority": draw.choice([5, 5, 5, 0, 9]),
            "org": draw.randrange(4),
        }

    def run(self) -> Counter[str]:
        try:
            self.world.join([0, 1], 2)
            operations = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
            weights = [_WEIGHTS.get(name, 1) for name in dir(self) if name.startswith("do_")]
            for _ in range(self.steps):
                self.random.choices(operations, weights)[0](self.random.randrange(100))
                self.world.steps["operations"] += 1
            self.world.drain()
            self.world.steps["jobs"] += len(self.world.jobs)
            return self.world.steps
        finally:
            self.world.close()

    def replay(self) -> bool:
        return self.random.random() < 0.3

    def delay(self) -> int:
        return self.random.choice([0, 0, 5, 45, 4000])

    def do_submit(self, number: int) -> None:
        specs = [
            {**self.spec(), "max_retries": self.random.choice([3, 0, 1, -1])}
            for _ in range(1 + number % 4)
        ]
        self.world.submit(specs, replay=self.replay())

    def do_submit_timed(self, number: int) -> None:
        self.world.submit([self.spec()], self.delay(), self.delay())

    def do_submit_again(self, number: int) -> None:
        self.world.submit_again(number)

    def do_join(self, number: int) -> None:
        if len(self.world.workers) < 4:
            self.world.join(self.queues(), number % 4)

    def queues(self) -> list[int]:
        return [self.random.randrange(3) for _ in range(self.random.choice([1, 1, 2, 3]))]

    def do_renew(self, number: int) -> None:
        queues = self.queues() if self.random.random() < 0.2 else []
        slots = self.random.choice([None, None, 0, 1, 2, 3])
        self.world.renew(number, queues, slots, self.random.randrange(3), self.replay())

    def do_pop(self, number: int) -> None:
        self.world.pop(number, self.random.randrange(3))

    def do_claim(self, number: int) -> None:
        told = self.random.random() < 0.9
        self.world.claim(number, self.random.randrange(3), self.replay(), told)

    def do_work(self, number: int) -> None:
        for queue in range(3):
            self.world.pop(number, queue)
        self.world.claim(number, 0)

    def do_claim_stale(self, number: int) -> None:
        self.world.claim_stale(number, self.random.random() < 0.5)

    def do_finish(self, number: int) -> None:
        outcome = self.random.choice(
            ["completed"] * 4 + ["failed", "unprocessable", "lost", "released", "replaced"]
        )
        self.world.finish(number, outcome, replay=self.replay())

    def do_follow(self, number: int) -> None:
        outcome = self.random.choice(["retried", "replaced"])
        self.world.finish(number, outcome, self.delay(), self.spec(), self.replay())

    def do_finish_stale(self, number: int) -> None:
        self.world.finish_stale(number)

    def do_crash(self, number: int) -> None:
        self.world.crash(number)

    def do_undeliver(self, number: int) -> None:
        self.world.undeliver(number, number, self.random.random() < 0.5, self.replay())

    def do_stop(self, number: int) -> None:
        self.world.stop(number, self.random.choice(["cancel", "release"]), self.replay())

    def do_cut_off(self, number: int) -> None:
        self.world.cut_off(number)

    def do_kill(self, number: int) -> None:
        self.world.kill(number)

    def do_leave(self, number: int) -> None:
        self.world.leave(number, self.replay())

    def do_silence(self, number: int) -> None:
        self.world.pass_time(self.random.choice([1, 10, 29, 70]), renewing=False)

    def do_pass_time(self, number: int) -> None:
        self.world.pass_time(self.random.choice([1, 3]), renewing=True)

    def do_jump(self, number: int) -> None:
        self.world.jump(self.random.choice([-600, -40, -5, 5, 40, 3600]))

    def do_tick(self, number: int) -> None:
        self.world.tick()

    def do_hold(self, number: int) -> None:
        self.world.hold(number, self.delay(), self.replay())

    def do_resume(self, number: int) -> None:
        self.world.resume(number, self.replay())

    def do_limit(self, number: int) -> None:
        value = self.random.choice([None, 0, 1, 2, 3])
        self.world.limit(number, value, self.delay(), self.replay())

    def do_configure(self, number: int) -> None:
        name = self.random.choice(["serial", "org", "org:alpha", "queue:alpha", "queue:be.ta%d"])
        self.world.configure({name: self.random.choice([None, 0, 1, 2, 3])})

    def do_settle(self, number: int) -> None:
        self.world.settle(self.random.choice([1, 7, 10_000]))


#: Most of what happens is work; what goes wrong comes between. The rest has the weight 1.
_OFTEN = {
    "do_submit": 6,
    "do_work": 14,
    "do_finish": 5,
    "do_follow": 2,
    "do_renew": 6,
    "do_stop": 3,
}
_SELDOM = {"do_kill": 0.3, "do_leave": 0.3, "do_silence": 0.5, "do_cut_off": 0.6, "do_hold": 0.4}
_WEIGHTS = {**_OFTEN, **_SELDOM, "do_limit": 0.5, "do_configure": 0.4}


def run(url: str, schedules: int, steps: int, seed: int, stop: bool = True) -> Counter[str]:
    """Run schedules and return what was counted; a failure prints its seed.

    Args:
        url: a Redis that may be emptied.
        schedules: how many.
        steps: operations in each.
        seed: of the first schedule; the next ones count up.
        stop: whether to stop at the first failure.
    """
    total: Counter[str] = Counter()
    with redis.Redis.from_url(url) as client:
        for number in range(seed, seed + schedules):
            client.flushall()
            try:
                total += Schedule(url, number, steps).run()
                total["schedules"] += 1
            except KeyboardInterrupt:
                # Ctrl-C ends the run with its counts.
                break
            except (AssertionError, redis.RedisError) as error:
                total["failures"] += 1
                total["overlaps"] += "run at once" in str(error)
                total["losses"] += "is lost" in str(error) or "never ended" in str(error)
                traceback.print_exc()
                sys.stderr.write(f"seed {number} failed: {error}\n")
                if stop:
                    break
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60, help="operations in each schedule")
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    options = parser.parse_args()
    # Told to end, in whatever way, it ends with its counts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [redis_executable(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        with running(*command, "--save", "", "--appendonly", "no", grace=0):
            url = f"redis://127.0.0.1:{port}/0"

            def answers() -> bool:
                try:
                    with redis.Redis.from_url(url) as client:
                        return bool(client.ping())
                except redis.ConnectionError:
                    return False

            eventually(answers)
            began = time.monotonic()
            total = run(
                url, options.schedules, options.steps, options.seed, stop=not options.keep_going
            )
    report = {name: total[name] for name in ("schedules", "failures", "overlaps", "losses")}
    report |= {name: total[name] for name in sorted(total) if name not in report}
    lines = [f"{name:24} {number:>9}" for name, number in report.items()]
    lines.append(f"{'seconds':24} {time.monotonic() - began:>9.1f}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())

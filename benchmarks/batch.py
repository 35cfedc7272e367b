"""What a producer is asked to submit: a number of like jobs, in words that any peer can carry out."""

from __future__ import annotations

from dataclasses import dataclass

#: Jobs that warm up the workers are numbered from here, out of the way of those that count.
WARM_UP = 1_000_000_000


@dataclass(frozen=True)
class Batch:
    """Jobs to submit one after the other, each with the system's ordinary call for one job.

    Attributes:
        count: how many.
        first: number of the first one; numbers grow in the order of submission.
        models: over how many models they are dealt out, in turn.
        prefix: first part of the models' names.
        ms: how long each one sleeps.
        org: the organisation they run for, if any.
        every: seconds from one call to the next, 0 for as fast as possible.
        crash: whether a job sleeps in its first run only, so that a second run after a crash is short.
    """

    count: int
    first: int = 0
    models: int = 1
    prefix: str = "m"
    ms: float = 0.0
    org: str | None = None
    every: float = 0.0
    crash: bool = False

    def model(self, number: int) -> str:
        """Return the model of a job."""
        return f"{self.prefix}{(number - self.first) % self.models}"

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Submitted:
    """What the producer measured; times in nanoseconds on CLOCK_MONOTONIC.

    Attributes:
        began, ended: the first call's start and the last one's return.
        calls: start of each call, if they are at most 1,000.
        p50_us, p99_us: duration of a call in microseconds.
        cpu: seconds of the producer's process.
    """

    began: int
    ended: int
    calls: list[int]
    p50_us: float
    p99_us: float
    cpu: float

    @property
    def seconds(self) -> float:
        return (self.ended - self.began) / 1e9

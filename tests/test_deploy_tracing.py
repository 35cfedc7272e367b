"""Traces stay whole: a job's run is the child of the span that sent it, whatever happened between the two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from coordinator.errors import LedgerClosed
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

SENT, RUN = "apply_async/play", "run/play"


@dataclass(frozen=True)
class Span:
    """What is asked of a span; ids as hexadecimal."""

    name: str
    job: str
    trace: str
    id: str
    parent: str


class Producer:
    """The instrumented side that sends."""

    def __init__(self, site: Installation) -> None:
        self.site = site
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("tests")

    def send(self, *acts: Any, **kwargs: Any) -> Any:
        """Send a job from within a request that is traced."""
        with self.tracer.start_as_current_span("request"):
            return self.site.play(*acts, **kwargs)

    def sent(self, job: Any) -> Span:
        """Return the one span that sent the job; it belongs to its request."""
        requests, found = {}, []
        for span in self.memory.get_finished_spans():
            assert span.context is not None
            parent = format_span_id(span.parent.span_id) if span.parent else ""
            own = format_span_id(span.context.span_id)
            if span.name == "request":
                requests[own] = parent
            elif (span.attributes or {}).get("messaging.message.id") == job.id:
                found.append(
                    Span(span.name, job.id, format_trace_id(span.context.trace_id), own, parent)
                )
        (only,) = found
        assert only.name == SENT
        assert requests[only.parent] == "", "a request begins a trace"
        return only


@contextmanager
def instrumented(site: Installation) -> Iterator[Producer]:
    producer, instrumentation = Producer(site), CeleryInstrumentor()
    instrumentation.instrument(tracer_provider=producer.provider)
    # By the name of a task alone, the instrumentation finds it in the current app.
    site.app.set_current()
    try:
        yield producer
    finally:
        instrumentation.uninstrument()


def worked(site: Installation, job: Any) -> list[Span]:
    """Return the spans that workers wrote of a job, in the order of their ends."""
    spans = []
    for path in site.folder.glob("*.spans"):
        for line in path.read_text().splitlines():
            told = json.loads(line)
            ids = (told["context"]["trace_id"], told["context"]["span_id"], told["parent_id"] or "")
            trace, own, parent = (one.removeprefix("0x") for one in ids)
            span = Span(
                told["name"], told["attributes"].get("messaging.message.id"), trace, own, parent
            )
            if span.job == job.id:
                spans.append((told["end_time"], span))
    return [span for _, span in sorted(spans, key=lambda item: item[0])]


def runs(site: Installation, job: Any, number: int) -> list[Span]:
    """Wait for the spans of a job's runs."""
    eventually(
        lambda: len([one for one in worked(site, job) if one.name == RUN]) == number, timeout=30
    )
    return [one for one in worked(site, job) if one.name == RUN]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_belongs_to_the_span_that_sent_it(alone: Installation) -> None:
    include = ("--include", "tests.traced")
    with instrumented(alone) as producer:
        model, gate = alone.model(), alone.gate()
        with alone.worker(*include):
            first = producer.send(["wait", gate], model=model)
            alone.starts(first)
            waited = producer.send(["give", 1], model=model)
            alone.waits([waited])
            alone.open(gate)
            assert alone.get(waited) == 1
            lost = producer.send(["die", 1], model=model)
            alone.starts(lost, runs=2)
            called = producer.send(["retry"], model=model)
            failed = producer.send(["fail", "ValueError", "as told", 1], model=model)
            for job in (lost, called, failed):
                alone.ends(job, "SUCCESS")
            for job in (first, waited, lost):
                (run,) = runs(alone, job, 1)
                sent = producer.sent(job)
                assert (run.trace, run.parent) == (sent.trace, sent.id)
            assert alone.runs(lost) == 2, "the run that was killed could not tell its span"
            for job in (called, failed):
                sent = producer.sent(job)
                one, two = runs(alone, job, 2)
                (again,) = [span for span in worked(alone, job) if span.name == SENT]
                assert {one.trace, again.trace, two.trace} == {sent.trace}
                # The second run is of the message that the first one sent.
                assert (one.parent, again.parent, two.parent) == (sent.id, one.id, again.id)
        with alone.held(model):
            kept = producer.send(["give", 2], model=model)
            alone.waits([kept])
            before = alone.work_queue.ledger.epoch() or 0
            alone.redis.flushdb()
            with alone.worker(*include, coordinator_lease_seconds=2):

                def restored() -> bool:
                    try:
                        return (alone.work_queue.ledger.epoch() or 0) > before
                    except LedgerClosed:
                        return False

                eventually(restored, timeout=60)
                alone.becomes(kept, "waiting")
                alone.work_queue.resume(model=model, by="test")
                assert alone.get(kept) == 2
                (run,) = runs(alone, kept, 1)
                sent = producer.sent(kept)
                assert (run.trace, run.parent) == (sent.trace, sent.id)

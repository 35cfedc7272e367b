"""Celery's instrumentation for OpenTelemetry in a worker's processes, as docs/deployment.md has it; spans go to files.

A worker of the tests takes it with ``--include tests.traced``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tests.celery_app import FOLDER


def line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


@worker_process_init.connect(weak=False)
def trace(**_: Any) -> None:
    """Write each span of this process at its end: one that is killed has told all it could."""
    path = Path(os.environ[FOLDER]) / f"{os.getpid()}.spans"
    exporter = ConsoleSpanExporter(out=path.open("a"), formatter=line)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(tracer_provider=provider)

"""Tasks that share a model: of one name only one runs at a time, whichever of the two it is."""

from __future__ import annotations

import time

from celery import shared_task

from coordinator import progress
from ranking.models import Order


@shared_task(models=["{model}"])
def train(model: str, seconds: float = 0.0) -> str:
    """Train a model."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        progress(1)
        time.sleep(0.05)
    return f"{model} trained"


@shared_task(models=["{model}"], max_retries=0)
def fulfil(model: str, order_id: int) -> int:
    """Fulfil an order that was committed before this was sent."""
    return int(Order.objects.filter(pk=order_id, model=model).update(trained=True))

"""What the project does over HTTP."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse

from coordinator import get_work_queue
from ranking.models import Order
from ranking.tasks import fulfil
from ranking.tasks import train as train_task


def train(request: HttpRequest, model: str) -> JsonResponse:
    """Start a training."""
    job = train_task.delay(model, float(request.GET.get("seconds", 0)))
    return JsonResponse({"job_id": job.id})


def order(_: HttpRequest, model: str) -> JsonResponse:
    """Keep an order; its job is submitted when the order is committed, and never without it."""
    with transaction.atomic():
        kept = Order.objects.create(model=model)
        fulfil.delay_on_commit(model, kept.pk)
    return JsonResponse({"order": kept.pk})


def job(_: HttpRequest, job_id: str) -> JsonResponse:
    """Tell where a job stands, and what it waits for."""
    found = get_work_queue().get_job(job_id)
    why = get_work_queue().why(job_id) if found.status == "PENDING" else None
    return JsonResponse({"status": found.status, "reason": why.reason if why else None})

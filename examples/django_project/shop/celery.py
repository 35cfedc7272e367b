"""The Celery app of the project, adopted in two lines."""

from __future__ import annotations

import os

from celery import Celery

from coordinator import coordinate

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
coordinate(app)
app.autodiscover_tasks()

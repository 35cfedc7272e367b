"""What the project keeps in its own database."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a training."""

    model = models.CharField(max_length=100)
    trained = models.BooleanField(default=False)

    class Meta:
        app_label = "ranking"

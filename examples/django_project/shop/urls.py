"""The routes of the project."""

from __future__ import annotations

from django.urls import path
from ranking import views

urlpatterns = [
    path("train/<str:model>", views.train),
    path("order/<str:model>", views.order),
    path("jobs/<str:job_id>", views.job),
]

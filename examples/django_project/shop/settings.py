"""Settings of the project. Celery's begin with CELERY_, the coordinator's with CELERY_COORDINATOR_."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(os.environ.get("SHOP_DATA", Path(__file__).resolve().parent.parent))
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

SECRET_KEY = os.environ.get("SHOP_SECRET", "only-for-this-example")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
INSTALLED_APPS = ["ranking"]
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_COORDINATOR_DATA_DIR = str(BASE_DIR / "coordinator")
CELERY_COORDINATOR_LIMITS = {"model:catalogue": 2}

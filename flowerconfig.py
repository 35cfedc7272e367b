"""Flower's settings, read by ``celery -A tasks flower``: nobody gets in without a login; Flower's command line wins."""

from __future__ import annotations

import os

from coordinator.flower import COLUMNS, configured, link_console, login

_settings = configured("tasks")
basic_auth = login(_settings.data_dir)
tasks_columns = COLUMNS
# Others reach it through a proxy that speaks TLS.
address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")
link_console(_settings.console_url)

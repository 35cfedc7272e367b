"""The work itself: games that models play, learn and are measured by, and any command or callable.

``celery -A tasks worker`` finds the application here.
"""

from __future__ import annotations

import os

from celery import Celery

from coordinator import coordinate

# Before the modules with the tasks load numpy: its linear algebra would start a thread for each core in
# each worker process, and they would fight for the cores that other jobs were given.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

app = Celery("tasks")
app.config_from_object("celeryconfig")
coordinate(app)

__all__ = ["app"]

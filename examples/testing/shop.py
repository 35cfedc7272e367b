"""An existing Celery app, adopted in two lines, as docs/testing.md tests it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from celery import Celery

from coordinator import coordinate

app = Celery("shop", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")
coordinate(app)


@app.task(models=["{model}"], max_retries=1, retry_delays=[0.1])
def train(model: str, folder: str, act: str = "") -> str:
    """Append a line to the model's file, and do as told."""
    runs = Path(folder) / model
    with runs.open("a") as file:
        file.write("run\n")
    if act == "fail":
        raise ValueError("no data")
    if act == "die" and len(runs.read_text().splitlines()) == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()  # its own end follows
    return model

"""What the task ``chaos.parent`` starts: a process that shows that it lives until somebody ends it."""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    path, job, token, models, seconds = sys.argv[1:6]
    end = time.monotonic() + float(seconds)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    while time.monotonic() < end:
        start = f"{time.monotonic():.6f} alive {job} {token} {os.getpid()}"
        os.write(file, f"{start} {models} 0\n".encode())
        time.sleep(0.01)

"""The reaper without beat: a process that runs one round after another."""

from __future__ import annotations

import logging
import time

from coordinator import CoordinatorError, JobReaper
from tests.chaos.app import app

if __name__ == "__main__":
    logger = logging.getLogger(__name__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    while True:
        try:
            JobReaper.get_instance().run(app.coordination.work_queue)
        except CoordinatorError as error:
            logger.warning("reaper: %s", error)
        time.sleep(0.5)

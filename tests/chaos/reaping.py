"""The reaper without beat: a process that runs one round after another."""

from __future__ import annotations

import logging

from coordinator import CoordinatorError, JobReaper
from tests.chaos.app import app
from tests.chaos.pauses import pause

if __name__ == "__main__":
    logger = logging.getLogger(__name__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    while True:
        try:
            JobReaper.get_instance().run(app.coordination.work_queue)
        except CoordinatorError as error:
            logger.warning("reaper: %s", error)
        pause(0.5)

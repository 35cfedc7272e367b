"""A Celery worker without Celery's command line.

The command line imports every package that adds commands to it, the coordinator among them: a plain worker
would carry what it does not use.

Arguments: name of the node, queue, number of processes.
"""

from __future__ import annotations

import sys

from celery.utils.nodenames import default_nodename, host_format

from benchmarks.tasks_app import app


def main(name: str, queue: str, slots: str) -> int:
    worker = app.Worker(
        hostname=host_format(default_nodename(f"{name}@%h")),
        queues=[queue],
        concurrency=int(slots),
        loglevel="WARNING",
        # What a cluster needs and a single worker does not would only slow its start.
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

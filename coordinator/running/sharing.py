"""What a worker's processes share in memory."""

from __future__ import annotations

import gc


def keep_shared() -> None:
    """Let processes that are forked from here go on sharing what is loaded by now.

    The garbage collector writes into every object that it looks at, and a page that a process writes to is copied:
    some 6 MiB in each process of a pool, which this saves.
    """
    # First, or what is garbage by now would stay for ever.
    gc.collect()
    gc.freeze()

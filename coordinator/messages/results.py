"""The result backend: Celery's on Redis, told the ledger's scripts where that saves round trips.

Keys, values and publications are Celery's own, so that any Celery client reads the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from celery import signals, states
from celery.backends.redis import RedisBackend
from kombu.utils.encoding import bytes_to_str

from coordinator.jobs import Result
from coordinator.running.context import current_job

#: Results above this number of bytes go to Redis by themselves: a script holds up everybody else.
MAX_BYTES = 65536

#: By whom a result may be read before the run is over.
_READERS = (signals.task_success, signals.task_postrun)


class Backend(RedisBackend):
    """Leaves the result of a successful run to the finish of its job.

    The ledger writes it in the step that ends the run, if the run still has the job. That is one round trip in
    place of three, and a run that has lost its job cannot overwrite the result of the one that took over.
    """

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Do nothing: Celery subscribes to every result when its task is sent.

        Whoever asks for a result subscribes then, and reads what is there already; so a producer that never
        asks pays for no subscription and for no end of it.
        """

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        job = current_job()
        if (
            job is None
            or job.id != task_id
            or not job.keeps_result
            or job.successor is not None
            or not store_result
            or request is None
            or request.chord
            or getattr(request, "ignore_result", False)
            or any(signal.receivers for signal in _READERS)
            or not self._in_ledger
        ):
            super().mark_as_done(task_id, result, request, store_result, state)
            return
        meta = self._get_result_meta(
            result=self.encode_result(result, state), state=state, traceback=None, request=request
        )
        meta["task_id"] = bytes_to_str(task_id)
        value = self.encode(meta)
        if len(value) > MAX_BYTES:
            super().mark_as_done(task_id, result, request, store_result, state)
            return
        key = bytes_to_str(self.get_key_for_task(task_id))
        job.result = Result(key, int(self.expires or 0), value)

    @cached_property
    def _in_ledger(self) -> bool:
        """Whether results are in the ledger's database, where its scripts can write them."""
        ledger = self.app.coordination.work_queue.ledger
        own = self.connparams
        return not own.get("credential_provider") and _place(own) == _place(
            ledger.pool.connection_kwargs
        )


def _place(options: Mapping[str, Any]) -> tuple[Any, ...]:
    host = options.get("host") or "127.0.0.1"
    where = options.get("path") or (
        "127.0.0.1" if host == "localhost" else host,
        int(options.get("port") or 6379),
    )
    login = options.get("username") or None, options.get("password") or None
    return where, int(options.get("db") or 0), login

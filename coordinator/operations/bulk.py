"""Verbs about many jobs: previewed, worked off in batches, noted in the log with who, why, before and after.

Redis is never asked for more than some dozens of jobs at once, so nobody waits for a bulk verb.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, Unpack

from coordinator.author import default_author
from coordinator.errors import InvalidValue
from coordinator.operations.interventions import Interventions
from coordinator.operations.listings import JobRecord, Listings, record_of
from coordinator.selection import Selection
from coordinator.states import PENDING, RUNNING, State

#: Jobs of one script, and of one page of the store.
STEP, PAGE = 50, 500

SAMPLE = 10

_WAITING = tuple(state.value for state in PENDING)
_UNFINISHED = (*_WAITING, *(state.value for state in RUNNING))
FAILED = (State.FAILED.value, State.UNPROCESSABLE.value)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Bulk:
    """What a bulk verb did, or would do.

    Attributes:
        verb: what was done to each.
        selection: to which jobs, in words.
        matched: jobs that fit when it began.
        done: jobs it was done to; 0 for a preview.
        skipped: others, by what they were when their turn came.
        sample: the first of those that fit.
        dry_run: whether it is a preview.
    """

    verb: str
    selection: str
    matched: int
    done: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    sample: tuple[JobRecord, ...] = ()
    dry_run: bool = False


class BulkOptions(TypedDict, total=False):
    """How a bulk verb is done.

    Attributes:
        reason, by: kept in the log; by default none, and this process's user.
        dry_run: whether only to count and sample.
        progress: called with (done, total) after each batch.
    """

    reason: str
    by: str | None
    dry_run: bool
    progress: Progress


def silent(_done: int, _total: int) -> None:
    """Show no progress."""


class BulkVerbs(Interventions, Listings):
    """The operators' verbs about many jobs; all take ``BulkOptions``.

    Jobs that are submitted meanwhile are left alone. All raise ``StoreUnavailable`` and ``LedgerUnavailable``; what was
    done until then stays done, and calling again goes on.
    """

    def drain(
        self,
        queue: str | None = None,
        *,
        delay_seconds: float | None = None,
        remove: bool = False,
        model: str | None = None,
        org: str | None = None,
        **how: Unpack[BulkOptions],
    ) -> Bulk:
        """Postpone or remove all pending jobs; what runs goes on.

        Args:
            queue, model, org: only jobs of these.
            delay_seconds: nothing of it starts for so long; jobs that are due later anyway are left alone.
            remove: cancel them instead.
            how: see ``BulkOptions``.

        Raises:
            InvalidValue: neither a delay nor ``remove``, or both; a delay that is not positive.
        """
        if (delay_seconds is None) != remove:
            raise InvalidValue("delay_seconds", delay_seconds, "given, or remove instead")
        selection = Selection(queue, model, org)
        work = _Work.of("drained", selection, how)
        if delay_seconds is None:
            return self._each(work, _WAITING, lambda ids: self._cancel(work, ids, "withdraw"))
        if not 0 < delay_seconds < 10 * 366 * 86_400:
            raise InvalidValue("delay_seconds", delay_seconds, "a positive number of seconds")
        until = self.ledger.clock() + int(delay_seconds * 1000)

        def delay(ids: Sequence[str]) -> list[str]:
            return self.ledger.drain(ids, until, work.reason, work.by)

        return self._each(work, _WAITING, delay, {"until_ms": until})

    def cancel_jobs(
        self,
        selection: Selection,
        **how: Unpack[BulkOptions],
    ) -> Bulk:
        """Cancel all unfinished jobs that fit; running ones are stopped.

        Args:
            selection: which.
            how: see ``BulkOptions``.
        """
        work = _Work.of("canceled", selection, how)
        return self._each(work, _UNFINISHED, lambda ids: self._cancel(work, ids, "cancel"))

    def clear_all(
        self,
        queue: str | None = None,
        **how: Unpack[BulkOptions],
    ) -> Bulk:
        """Cancel everything that has not ended, running jobs too; of one queue, or of all.

        Args:
            queue: only this queue.
            how: see ``BulkOptions``.
        """
        selection = Selection(queue)
        work = _Work.of("cleared", selection, how)
        return self._each(work, _UNFINISHED, lambda ids: self._cancel(work, ids, "cancel"))

    def retry_failed(
        self,
        job_id: str | None = None,
        *,
        error: str | None = None,
        queue: str | None = None,
        model: str | None = None,
        org: str | None = None,
        **how: Unpack[BulkOptions],
    ) -> Bulk:
        """Resubmit failed and unprocessable jobs, the oldest first; all of them when nothing is given.

        Args:
            job_id: this one.
            error: only those whose error contains this text.
            queue, model, org: only jobs of these.
            how: see ``BulkOptions``.
        """
        selection = Selection(queue, model, org, error=error, job_id=job_id)
        work = _Work.of("resubmitted", selection, how)

        def resubmit(ids: Sequence[str]) -> list[str]:
            stored = self.store.stored(ids)
            answers = []
            for one in ids:
                if one not in stored:
                    answers.append("gone")
                    continue
                answer = self._resubmit(stored[one], None, None, work.reason, work.by)
                answers.append("done" if answer["answer"] == "done" else answer["state"])
            return answers

        return self._each(work, FAILED, resubmit)

    def purge_failed_jobs(
        self,
        max_age_hours: float,
        queue: str | None = None,
        **how: Unpack[BulkOptions],
    ) -> Bulk:
        """Forget failed and unprocessable jobs that ended long ago; the log and the totals keep them.

        Args:
            max_age_hours: those that ended longer ago than this go; 0 is all.
            queue: only of this queue.
            how: see ``BulkOptions``.

        Raises:
            InvalidValue: a negative age.
        """
        if not max_age_hours >= 0:
            raise InvalidValue("max_age_hours", max_age_hours, "a number of hours from 0 up")
        self.catch_up()
        before = time.time_ns() // 1_000_000 - int(max_age_hours * 3_600_000)
        work = _Work.of("purged", Selection(queue), how)
        matched = self.store.purge_failed(before, queue, by=work.by, dry_run=True)
        words = f"{work.selection}, ended over {max_age_hours:g} h ago"
        if work.dry_run:
            return Bulk(work.verb, words, matched, dry_run=True)
        done = self.store.purge_failed(
            before,
            queue,
            by=work.by,
            reason=work.reason,
            progress=lambda gone: work.progress(gone, matched),
        )
        return Bulk(work.verb, words, matched, done)

    def _cancel(self, work: _Work, ids: Sequence[str], kind: str) -> list[str]:
        answers = []
        for job_id in ids:
            reason = work.reason or work.verb
            answer = self.ledger.cancel(job_id, reason, work.by, kind)
            done = answer["answer"] in ("done", "stopping")
            answers.append("done" if done else answer.get("state") or answer["answer"])
        return answers

    def _each(
        self,
        work: _Work,
        states: Collection[str],
        act: Callable[[Sequence[str]], list[str]],
        data: dict[str, Any] | None = None,
    ) -> Bulk:
        self.catch_up()
        # Sequences are microseconds of Redis's clock: up to the end of this millisecond, or what came within it
        # would be left out.
        upto = self.ledger.clock() * 1000 + 999
        total = self.store.chosen_count(work.selection, states, upto=upto)
        page = self.store.chosen(work.selection, states, upto=upto, limit=PAGE)
        sample = tuple(record_of(row) for row in page[:SAMPLE])
        if work.dry_run:
            return Bulk(work.verb, str(work.selection), total, sample=sample, dry_run=True)
        answers: Counter[str] = Counter()
        while page:
            for start in range(0, len(page), STEP):
                answers.update(act([row["job_id"] for row in page[start : start + STEP]]))
                work.progress(min(answers.total(), total), total)
            after = (page[-1]["sequence"], page[-1]["job_id"])
            page = self.store.chosen(work.selection, states, upto=upto, after=after, limit=PAGE)
        done = answers.pop("done", 0)
        told = Bulk(work.verb, str(work.selection), total, done, dict(answers), sample)
        self._note(work, told, data or {})
        return told

    def _note(self, work: _Work, told: Bulk, data: dict[str, Any]) -> None:
        if not told.matched:
            return
        self.store.note(
            work.verb,
            work.by,
            work.reason,
            resource=f"queue:{work.selection.queue}" if work.selection.queue else None,
            before=f"{told.matched} jobs",
            after=f"{told.done} {work.verb}",
            data={**data, "selection": asdict(work.selection), "skipped": told.skipped},
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """One call of a bulk verb."""

    verb: str
    selection: Selection
    reason: str
    by: str
    dry_run: bool
    progress: Progress

    @classmethod
    def of(cls, verb: str, selection: Selection, how: BulkOptions) -> _Work:
        """Return a call, with what was not given as it is by default."""
        author = how.get("by") or default_author()
        reason, dry_run = how.get("reason", ""), how.get("dry_run", False)
        return cls(verb, selection, reason, author, dry_run, how.get("progress", silent))

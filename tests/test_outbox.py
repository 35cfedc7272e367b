"""The transactional outbox: jobs are accepted by the caller's commit, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from celery import Celery
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from coordinator import coordinate, outbox
from coordinator.recovery.reconciliation import Reconciler
from coordinator.work_queue import WorkQueue


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update(
        coordinator_redis_url=redis_url,
        coordinator_database_url=f"sqlite:///{tmp_path}/shop.db",
        coordinator_data_dir=str(tmp_path),
    )
    coordinate(app)

    @app.task(name="shop.bill", shared=False, models=["{customer}"])
    def bill(customer: str) -> str:
        return customer

    yield app
    app.coordination.work_queue.store.close()
    app.close()


@pytest.fixture
def queue(app: Celery) -> WorkQueue:
    queue: WorkQueue = app.coordination.work_queue
    assert queue.ensure_open()
    return queue


@pytest.fixture
def engine(queue: WorkQueue) -> Iterator[sa.Engine]:
    engine = sa.create_engine(queue.settings.store_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (customer TEXT)")
    yield engine
    engine.dispose()


def order(session: Any, app: Celery, customer: str = "ann") -> str:
    """Write a row of the application and send its job in one transaction; return the job's id."""
    session.execute(sa.text("INSERT INTO orders VALUES (:c)"), {"c": customer})
    with outbox(session):
        return str(app.tasks["shop.bill"].delay(customer).id)


def orders(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM orders")).scalar_one())


def test_a_commit_accepts_the_job_and_starts_it(
    app: Celery, queue: WorkQueue, engine: sa.Engine
) -> None:
    with Session(engine) as session:
        job_id = order(session, app)
        assert queue.ledger.job(job_id) is None, "nothing may start before the commit"
        assert queue.store.known([job_id]) == set()
        session.commit()
        known = queue.ledger.job(job_id)
    assert known is not None
    assert known["state"] == "waiting"
    assert queue.store.known([job_id]) == {job_id}
    # A block of its own: the next call of the same thread is an ordinary one.
    later = app.tasks["shop.bill"].delay("bob").id
    assert queue.ledger.job(later) is not None


def test_a_rollback_leaves_nothing(app: Celery, queue: WorkQueue, engine: sa.Engine) -> None:
    with Session(engine) as session:
        job_id = order(session, app)
        session.rollback()
    assert (orders(engine), queue.store.known([job_id])) == (0, set())
    assert queue.ledger.job(job_id) is None
    assert Reconciler(queue).enter_unknown() == 0


def test_what_a_savepoint_took_back_does_not_start(
    app: Celery, queue: WorkQueue, engine: sa.Engine
) -> None:
    with Session(engine) as session:
        kept = order(session, app)
        savepoint = session.begin_nested()
        taken_back = order(session, app, "bob")
        savepoint.rollback()
        session.commit()
    assert queue.store.known([kept, taken_back]) == {kept}
    assert queue.ledger.job(kept) is not None
    assert queue.ledger.job(taken_back) is None


def test_the_reaper_enters_what_a_crash_after_the_commit_left(
    app: Celery, queue: WorkQueue, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process ends between the commit and the entry: the entry is never made.
    monkeypatch.setattr(WorkQueue, "enter", lambda _queue, _jobs: None)
    with Session(engine) as session:
        job_id = order(session, app)
        session.commit()
    assert queue.ledger.job(job_id) is None
    assert Reconciler(queue).enter_unknown() == 1
    assert queue.ledger.job(job_id) is not None
    assert Reconciler(queue).enter_unknown() == 0


def test_a_commit_is_no_error_while_redis_is_closed_for_entries(
    app: Celery, queue: WorkQueue, engine: sa.Engine, redis_client: redis.Redis
) -> None:
    with Session(engine) as session:
        job_id = order(session, app)
        full = '{"used": 2, "allowed": 1, "until_ms": 99999999999999}'
        redis_client.hset("coordinator:meta", "full", full)
        session.commit()
    assert queue.ledger.job(job_id) is None
    redis_client.hdel("coordinator:meta", "full")
    assert Reconciler(queue).enter_unknown() == 1


def test_connections_and_scoped_sessions_will_do(
    app: Celery, queue: WorkQueue, engine: sa.Engine
) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        with outbox(connection) as box:
            first = app.tasks["shop.bill"].delay("ann").id
        transaction.commit()
        box.enter()
    scoped = scoped_session(sessionmaker(engine))
    second = order(scoped, app, "bob")
    scoped.commit()
    scoped.remove()
    assert queue.ledger.job(first) is not None
    assert queue.ledger.job(second) is not None

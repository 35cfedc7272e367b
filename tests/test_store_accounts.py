"""Users, sessions, tokens and kept answers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.store import Answer, RowRefused, Store
from coordinator.store.accounts import ANSWERS_KEPT


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/a.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    own = Store(url)
    own.upgrade()
    yield own
    own.close()


def test_users_and_their_sessions(store: Store) -> None:
    store.add_user("ann", "hash", "operator")
    for name, scope in (("ann", "viewer"), ("bob", "root"), ("", "viewer")):
        with pytest.raises(RowRefused):
            store.add_user(name, "hash", scope)
    assert [(user.name, user.password, user.scope) for user in store.users()] == [
        ("ann", "hash", "operator")
    ]
    store.open_session("one", "ann")
    with pytest.raises(RowRefused):
        store.open_session("two", "nobody")
    found = store.session("one", 1000, 1000)
    assert found is not None
    assert (found.name, found.scope) == ("ann", "operator")
    assert store.session("other", 1000, 1000) is None
    assert store.set_password("ann", "new")
    assert not store.set_password("nobody", "new")
    assert store.session("one", 1000, 1000) is None
    store.open_session("three", "ann")
    assert store.remove_user("ann")
    assert not store.remove_user("ann")
    assert store.session("three", 1000, 1000) is None
    assert store.user("ann") is None


def test_tokens(store: Store) -> None:
    store.add_token("id", "ci", "digest", "viewer", by="ann")
    for token_id, name, scope in (("id", "x", "viewer"), ("x", "ci", "viewer"), ("x", "x", "root")):
        with pytest.raises(RowRefused):
            store.add_token(token_id, name, "digest", scope, by="ann")
    found = store.token("id")
    assert found is not None
    assert (found.name, found.digest, found.used_ms) == ("ci", "digest", None)
    store.token_used(found)
    (used,) = store.tokens()
    assert used.used_ms is not None
    # Once a minute is enough.
    store.token_used(used)
    assert store.tokens() == [used]
    store.add_token("old", "old", "digest", "viewer", by="ann", until_ms=1)
    assert store.token("old") is None
    store.add_token("new", "new", "digest", "viewer", by="ann", until_ms=2**52)
    # Again and again: whatever the clock does between two looks at it.
    for _ in range(200):
        assert store.token("id") is not None
        assert store.token("new") is not None
    assert store.revoke_token("ci")
    assert not store.revoke_token("ci")
    assert store.token("id") is None


def test_the_first_answer_counts_and_old_ones_are_forgotten(store: Store) -> None:
    first = store.reserve_answer("ci", "k", "request")
    assert (first.request, first.status, first.body) == ("request", None, None)
    assert store.reserve_answer("ci", "k", "other") == first
    assert store.reserve_answer("me", "k", "request").nonce != first.nonce
    kept = store.keep_answer("ci", "k", 202, "{}")
    assert kept == Answer("request", first.nonce, 202, "{}")
    assert store.keep_answer("ci", "k", 200, "[]") == kept
    store.forget_answer("ci", "k")
    assert store.reserve_answer("ci", "k", "request") == kept
    store.reserve_answer("ci", "refused", "request")
    store.forget_answer("ci", "refused")
    assert store.reserve_answer("ci", "refused", "other").request == "other"
    table = store.schema.accounts.answers
    with store.writing() as connection:
        connection.execute(
            sa.update(table).values(created_at=table.c.created_at - ANSWERS_KEPT - 1)
        )
    again = store.reserve_answer("ci", "k", "other")
    assert (again.request, again.status) == ("other", None)
    assert again.nonce != first.nonce


def test_all_who_send_a_request_at_once_get_one_nonce(store: Store) -> None:
    nonces: list[str] = []
    barrier = threading.Barrier(6)

    def send() -> None:
        barrier.wait()
        nonces.append(store.reserve_answer("ci", "k", "request").nonce)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(nonces), len(set(nonces))) == (6, 1)

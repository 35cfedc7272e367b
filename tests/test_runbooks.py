"""Every page of docs/runbooks carried out: the situation is brought about, found, mended and seen to be over."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.helpers import eventually
from tests.runbook_site import FOLDER, PATIENCE, Page, Site

# The first one waits for the start of six processes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NODE = f"training@{socket.gethostname()}"

#: As ``coordinator stuck`` has it, and a little more.
QUARTER_MS = 15 * 60_000


@pytest.fixture(scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site") / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment.items():
            patch.setenv(name, value)
        with site.up():
            yield site


@pytest.fixture
def site(_site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The installation, with nothing left of the page before."""
    for name, value in _site.environment.items():
        monkeypatch.setenv(name, value)
    yield _site
    for path in _site.world.iterdir():
        path.unlink()
    _site.call("coordinator clear --all --yes --by test")
    eventually(lambda: _site.work_queue.get_in_progress_count() == 0, PATIENCE)
    _site.call("coordinator purge --older-than 1s --yes --by test")


def test_each_pattern_has_a_page_with_all_its_parts() -> None:
    index = (FOLDER / "README.md").read_text()
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", index))
    assert linked == {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    assert len(linked) == 9
    for name in linked:
        text = (FOLDER / f"{name}.md").read_text()
        for part in (
            "**Symptom.**",
            "## How it is found",
            "## How it is mended",
            "## How to see that it is over",
            "## Against its coming back",
        ):
            assert part in text, f"{name}: {part}"
        assert {"find", "mend", "over"} <= set(Page.read(name).blocks), name


def test_a_sample_that_differs_is_noticed() -> None:
    step = Page.read("queue-paused").blocks["mend"][0]
    step.check("resumed\n")
    with pytest.raises(AssertionError, match="is not in its answer"):
        step.check("it was not paused\n")


def test_nobody_claims(site: Site) -> None:
    page = Page.read("nobody-claims")
    site.freeze("worker-training")
    eventually(lambda: "training" not in site.work_queue.ledger.consumed(), PATIENCE)
    jobs = site.send("train", 3, model="m{n}")
    site.sees(page, JOB=jobs[0])
    site.mends(page)
    for job in jobs:
        site.becomes(job, "completed")
    site.sees(page, "over")


def test_nobody_claims_since_the_worker_was_told_so(site: Site) -> None:
    page = Page.read("nobody-claims")
    site.call(f"coordinator workers drain {NODE} --by ann")
    (job,) = site.send("train", model="m")
    site.sees(page, "find drained")
    assert site.work_queue.get_job(job).state == "waiting"
    site.mends(page, "mend drained", NODE=NODE)
    site.becomes(job, "completed")


def test_nobody_claims_since_no_worker_was_ever_started(site: Site) -> None:
    page = Page.read("nobody-claims")
    job = site.app.send_task("play", kwargs={"model": "m"}, queue="evaluation").id
    assert "no live worker" in site.call(f"coordinator why {job}")
    site.mends(page, "mend none")
    site.becomes(job, "completed")


def test_jobs_stuck_in_progress(site: Site) -> None:
    page = Page.read("jobs-stuck")
    site.let("hanging")
    hung, behind = site.send("train", 2, model="ranker")
    site.becomes(hung, "running")
    # As if it had begun a quarter of an hour ago.
    ledger = site.work_queue.ledger
    ledger.redis.hincrby(f"{ledger.prefix}job:{hung}", "started", -QUARTER_MS)
    site.sees(page, JOB=hung)
    site.mends(page, JOB=hung)
    site.becomes(behind, "completed")
    site.sees(page, "over", JOB=hung)


def test_everything_fails(site: Site) -> None:
    page = Page.read("everything-fails")
    site.let("disk-full")
    jobs = site.send("train", 12, model="m{n}")
    site.opens("queue:training")
    jobs += site.send("train", 3, model="later{n}")
    site.sees(page)
    site.let("disk-full", False)
    site.mends(page)
    for job in jobs:
        site.becomes(job, "completed")
    site.sees(page, "over")


def test_populator_dead(site: Site) -> None:
    page = Page.read("populator-dead")
    site.let("games-wanted")
    eventually(lambda: site.work_queue.get_jobs(queue="selfplay", model="chess"), PATIENCE)
    site.freeze("worker-maintenance")
    eventually(lambda: "maintenance" not in site.work_queue.ledger.consumed(), PATIENCE)
    # As if that had been a minute and a half ago.
    store = site.work_queue.store
    last = store.conditions("populator")["last"]
    data = {**last.data, "at": last.data["at"] - 90}
    store.set_condition("populator", "last", last.state, last.since, data)
    site.sees(page)
    site.mends(page)
    site.sees(page, "over")
    site.call("coordinator pause selfplay --by ann --reason 'board upgrade'")
    site.sees(page, "find stopped")
    site.call("coordinator resume selfplay")


def test_queue_paused(site: Site) -> None:
    page = Page.read("queue-paused")
    site.call("coordinator pause training --by ann --reason 'GPU maintenance'")
    (job,) = site.send("train", model="m")
    site.sees(page, JOB=job)
    site.mends(page)
    site.sees(page, "over", JOB=job)


def test_one_org_floods(site: Site) -> None:
    page = Page.read("one-org-floods")
    flood = site.send("contest", 12, model="c{n}", org="acme")
    eventually(lambda: site.work_queue.get_in_progress_count("selfplay") == 4, PATIENCE)
    (other,) = site.send("contest", model="own", org="umbrella")
    site.sees(page, JOB=other)
    site.mends(page)
    site.let("games-over")
    site.sees(page, "over", JOB=other)
    states = {site.work_queue.get_job(job).state for job in flood}
    assert states == {"completed", "delayed"}
    site.mends(page, "mend afterwards")


def test_redis_lost(site: Site) -> None:
    page = Page.read("redis-lost")
    (job,) = site.send("train", model="m")
    site.becomes(job, "completed")
    site.call("coordinator pause training --by ann")
    waits = site.send("train", 3, model="later{n}")
    assert site.work_queue.catch_up()
    # It comes back empty, too.
    site.work_queue.ledger.redis.flushall()
    site.freeze("redis")
    site.sees(page)
    site.mends(page)
    eventually(lambda: "paused by ann" in site.call("coordinator status"), PATIENCE)
    site.call("coordinator resume training")
    for one in waits:
        site.becomes(one, "completed")
    site.sees(page, "over", JOB=waits[0])


def test_worker_out_of_memory(site: Site) -> None:
    page = Page.read("worker-out-of-memory")
    site.let("little-memory")
    jobs = site.send("train", 2, model="big{n}")
    eventually(lambda: site.work_queue.get_recent_failures(queue="training"), PATIENCE)
    (killed,) = site.work_queue.get_recent_failures(queue="training")
    site.sees(page, JOB=killed.id)
    site.let("memory-free")
    site.mends(page)
    for job in jobs:
        site.becomes(job, "completed")
    site.sees(page, "over", JOB=killed.id)
    site.call("coordinator scale training --count 2")


def test_integration_down(site: Site) -> None:
    page = Page.read("integration-down")
    site.let("warehouse-down")
    jobs = site.send("fetch", 8, item="{n}")
    site.opens("integration:warehouse")
    (late,) = site.send("fetch", item=9)
    site.sees(page, JOB=late)
    (game,) = site.send("play", model="m")
    site.becomes(game, "completed")
    site.let("warehouse-down", False)
    site.mends(page)
    for job in jobs:
        site.becomes(job, "completed")
    site.sees(page, "over", JOB=late)

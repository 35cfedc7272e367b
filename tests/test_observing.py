"""Observe-only mode: everything stays as plain Celery has it, and what would have waited is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from click.testing import CliRunner

from coordinator.cli import main
from coordinator.errors import InvalidSetting, LedgerUnavailable, Refused
from coordinator.observing import Marks, Run
from coordinator.settings import load
from tests import celery_app
from tests.helpers import eventually, free_port

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

#: Seconds to wait for what takes milliseconds.
PATIENCE = 60

#: What differs from one sending to the next, whoever sends.
VOLATILE = ("delivery_tag",)


@pytest.fixture
def watched(alone: Installation) -> Installation:
    """An installation that enforces nothing."""
    alone.conf["coordinator_mode"] = "observe"
    return alone


def messages(installation: Installation) -> list[dict[str, Any]]:
    """Take all messages off the broker's lists (each priority has its own), less what differs each time."""
    found = []
    for queue in sorted(installation.redis.keys("work*")):
        while (text := installation.redis.rpop(queue)) is not None:
            message = json.loads(text)
            for name in VOLATILE:
                message["properties"].pop(name, None)
            found.append(message)
    return found


def send_all(app: Any) -> None:
    # Names the queue of answers, otherwise by chance.
    app._local.oid = "sender"
    play, options = app.tasks["play"], {"task_id": "one"}
    play.apply_async((["give", 1],), {"model": "m"}, **options)
    play.apply_async(("x",), countdown=None, priority=3, headers={"own": "header"}, **options)
    play.apply_async((), retry=True, time_limit=30, soft_time_limit=20, shadow="other", **options)
    app.send_task("play", ["y"], queue="work", **options)
    app.send_task("unknown", ["y"], queue="work", **options)
    first = play.s(["give", 1]).set(task_id="a", root_id="a")
    chain(first, play.s().set(task_id="b")).apply_async(root_id="a")
    app.tasks["plain"].apply_async((), expires=None, **options)


def test_messages_are_those_of_plain_celery_byte_for_byte(watched: Installation) -> None:
    send_all(watched.foreign)
    plain = messages(watched)
    send_all(watched.app)
    assert messages(watched) == plain
    assert len(plain) == 7
    assert not watched.redis.keys("coordinator*")
    assert not (watched.folder / "jobs.db").exists()


def test_what_a_call_says_to_the_coordinator_travels_in_a_header(watched: Installation) -> None:
    play = watched.task("play")
    play.apply_async((), models=["own"], org="acme", owner="workflow-1")
    (message,) = messages(watched)
    said = message["headers"]["coordinator"]
    assert (said["models"], said["org"], said["owner"]) == (["own"], "acme", "workflow-1")
    assert not {"models", "org", "owner"} & set(message["properties"])
    # What enforcing mode refuses is sent all the same.
    play.apply_async((), models=["{nobody}"])
    (message,) = messages(watched)
    assert "coordinator" not in message["headers"]


def test_the_app_is_as_celery_made_it(watched: Installation) -> None:
    app, plain = watched.app, watched.foreign
    assert sorted(app.tasks) == sorted(plain.tasks)
    assert app.conf.beat_schedule == plain.conf.beat_schedule == {}
    assert dict(app.steps) == dict(plain.steps)
    for name in app.tasks:
        assert type(app.tasks[name]).__call__ is type(plain.tasks[name]).__call__, name
        assert app.tasks[name].Request == plain.tasks[name].Request
    assert type(app.backend) is type(plain.backend)
    with app.connection_for_write() as own, plain.connection_for_write() as other:
        assert own.transport_cls == other.transport_cls
        assert own.info() == other.info()
    assert app.conf.broker_transport is None


@pytest.mark.slow
def test_overlapping_runs_on_one_model_are_told_and_nobody_waits(watched: Installation) -> None:
    with watched.worker(concurrency=4) as worker:
        gate, play = watched.gate(), watched.play
        first = play(["wait", gate], model="m7")
        watched.starts(first)
        other_model = play(["wait", gate], model="m8")
        none = play(["wait", gate])
        second = play(["give", "done"], model=["m7", "m9"])
        # It waits for nobody: the first run still holds its model.
        assert watched.get(second) == "done"
        assert not first.ready()
        watched.open(gate)
        for result in (first, other_model, none):
            watched.get(result)
        third = play(["give", 3], model="m7")
        assert watched.get(third) == 3
        found = watched.work_queue.get_conflicts()
        assert (found.runs, found.waited) == (4, 1)
        (task,) = found.tasks
        assert str(task) == "1 of 4 runs of play would have waited for a model; worst model m7"
        (pair,) = found.pairs
        assert (pair.model, pair.task, pair.other_task, pair.number) == ("m7", "play", "play", 1)
        (example,) = found.examples
        assert (example.job_id, example.other_job_id) == (second.id, first.id)
        assert example.worker == example.other_worker == worker.node
        assert example.other_at is not None
        assert found.since is not None
        assert found.since <= example.other_at <= example.at
        assert not worker.said("Traceback")
    keys = set(watched.redis.keys("coordinator*"))
    assert all(key.startswith("coordinator-observed:") for key in keys), keys
    assert not {key for key in keys if ":run:" in key or ":model:" in key}, "marks stayed"
    assert not (watched.folder / "jobs.db").exists()
    watched.work_queue.clear_conflicts()
    assert watched.work_queue.get_conflicts().runs == 0


def outcomes(installation: Installation, app: Any) -> dict[str, Any]:
    """Run what Celery can do with a worker; return how all ended, less ids and times."""
    play = app.tasks["play"]
    task = app.tasks
    sent = {
        "result": play.delay(["give", {"a": 1}], model="m"),
        "failure": task["once"].delay(["fail", "ValueError"]),
        "retries": task["backing"].delay(["fail", "ValueError", "as told", 2], ["give", "at last"]),
        "ignored": task["silent"].delay(["give", 1]),
        "late": task["late"].delay(["give", 2], model="m"),
        "chain": chain(play.s(["give", 1], model="m"), play.s(["give", 2], model="m"))(),
        "group": group(task["add"].s(n, n) for n in range(3))(),
        "chord": chord([task["add"].s(n, n) for n in range(3)])(task["total"].s()),
        "replaced": play.delay(["replace", task["add"].s(2, 3)]),
        "countdown": play.apply_async((["give", "later"],), countdown=0.2),
        "hooked": task["hooked"].delay(["give", 5], model="m"),
        "limit": task["limited"].delay(["spin", 5]),
        "template": task["template"].delay("net"),
    }
    found: dict[str, Any] = {}
    for name, result in sent.items():
        value = result.get(timeout=PATIENCE, propagate=False)
        found[name] = (getattr(result, "state", None), repr(value))
        if hasattr(result, "id") and name not in ("group", "chain"):
            found[name] += ([line["event"] for line in installation.trace(result)],)
    meta = json.loads(installation.redis.get(f"celery-task-meta-{sent['result'].id}"))
    found["meta"] = {key: meta[key] for key in sorted(meta) if key not in ("task_id", "date_done")}
    found["meta"].pop("worker")
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_everything_ends_as_in_plain_celery(watched: Installation) -> None:
    with watched.worker(concurrency=2):
        own = outcomes(watched, watched.app)
        assert not watched.redis.keys("coordinator:*")
    with watched.worker(concurrency=2, coordinated=False):
        assert outcomes(watched, watched.foreign) == own
    assert own["failure"][0] == own["limit"][0] == "FAILURE"
    assert own["failure"][2] == ["start", "end"], "a failure is not retried by itself"
    assert own["template"][1] == "[]"
    assert own["retries"][:2] == ("SUCCESS", "'at last'")


@pytest.mark.slow
def test_steps_children_and_runs_of_a_killed_worker(watched: Installation) -> None:
    with watched.worker(concurrency=3):
        s, gate = watched.s, watched.gate()
        steps = chain(*(s(["give", n], model="line") for n in range(8)))()
        assert watched.get(steps) == 7
        # One that is sent from a body that goes on waits for it.
        parent = watched.play(
            ["call", "play", [["give", "child"]], {"kwargs": {"model": "tree"}}],
            ["wait", gate],
            model="tree",
        )

        def told() -> None:
            found = watched.work_queue.get_conflicts()
            assert [(pair.model, pair.number) for pair in found.pairs] == [("tree", 1)]
            assert found.examples[0].other_job_id == parent.id

        eventually(told, PATIENCE)
        watched.open(gate)
        watched.get(parent)
        assert watched.work_queue.get_conflicts().waited == 1
        eventually(lambda: not watched.redis.keys("*-observed:run:*"), PATIENCE)
        lost = watched.play(["block", watched.gate()], model="m")
        watched.starts(lost)
        (key,) = watched.redis.keys("*-observed:run:*")
    # The worker was killed, and its mark stays for a while.
    assert 0 < watched.redis.pttl(key) <= 20_000
    # As if these seconds had passed.
    watched.redis.delete(key)
    marks = Marks(watched.broker, "coordinator:")
    assert begun(marks, run("a")) == "free"
    assert watched.redis.smembers("coordinator-observed:model:m") == {"a"}


@pytest.mark.slow
def test_runs_go_on_when_the_redis_of_the_marks_is_away(watched: Installation) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    watched.conf["coordinator_redis_url"] = away
    with watched.worker() as worker:
        assert watched.get(watched.play(["give", 1], model="m")) == 1
        assert watched.get(watched.play(["give", 2], model="m")) == 2
        eventually(lambda: worker.said("[COORDINATOR] runs are not observed"), PATIENCE)
        assert not worker.said("Traceback")
    with pytest.raises(LedgerUnavailable):
        watched.work_queue.get_conflicts()


def run(name: str, *models: str, limit: int = 1, **more: str) -> Run:
    fields = {"job": name, "task": "train", "worker": "w", "owner": "", "root": "", "parent": ""}
    return Run(
        key=name, models=tuple((model, limit) for model in models or ("m",)), **{**fields, **more}
    )


def begun(marks: Marks, one: Run, began: int = 0) -> str:
    return marks.begin(one, began)[0]


@pytest.fixture
def marks(alone: Installation) -> Marks:
    return Marks(alone.broker, "coordinator:", 5)


def test_a_limit_lets_so_many_runs_in(marks: Marks) -> None:
    answers = [begun(marks, run(name, limit=2)) for name in "abc"]
    assert answers == ["free", "free", "conflict"]
    marks.end(run("a"))
    marks.end(run("b"))
    assert begun(marks, run("d", limit=2)) == "free"
    found = marks.conflicts()
    assert (found.runs, found.waited) == (4, 1)
    assert found.examples[0].other_job_id == "a", "the one that ran longest"


def test_a_run_never_waits_for_itself_or_for_its_owner(marks: Marks) -> None:
    assert begun(marks, run("a")) == "free"
    assert begun(marks, run("a-retried", job="a")) == "free"
    assert begun(marks, run("w1", "n", owner="workflow")) == "free"
    assert begun(marks, run("w2", "n", owner="workflow")) == "free"
    assert begun(marks, run("w3", "n")) == "conflict"


def test_an_earlier_step_that_ends_at_once_is_no_conflict(marks: Marks) -> None:
    marks.begin(run("a", root="a"))
    later = run("b", root="a", parent="a")
    answer, at = marks.begin(later)
    assert answer == "relative"
    # Who began after it is no conflict of it, but one of its own.
    assert begun(marks, run("z")) == "conflict"
    assert begun(marks, later, at) == "conflict"
    assert marks.conflicts().examples[0].other_job_id == "a"
    marks.begin(run("c", "n", root="c"))
    second, third = run("d", "n", root="c", parent="c"), run("e", "n", root="c", parent="d")
    answers = [marks.begin(second), marks.begin(third)]
    assert [answer for answer, _ in answers] == ["relative", "relative"]
    for ended in (run("c", "n"), second, third):
        marks.end(ended)
    for one, (_, began) in zip((second, third), answers, strict=True):
        assert begun(marks, one, began) == "free"
    found = marks.conflicts()
    assert (found.runs, found.waited) == (6, 2)


def test_members_of_a_group_are_no_relatives(marks: Marks) -> None:
    marks.begin(run("a", root="r", parent="r"))
    assert begun(marks, run("b", root="r", parent="r")) == "conflict"


def test_marks_live_as_long_as_they_are_renewed(alone: Installation, marks: Marks) -> None:
    one = run("a")
    marks.begin(one)
    keys = ("coordinator-observed:run:a", "coordinator-observed:model:m")
    for key in keys:
        alone.redis.pexpire(key, 5_000)
    marks.renew([one])
    assert all(alone.redis.pttl(key) > 5_000 for key in keys)


def test_what_is_kept_is_bounded(alone: Installation, marks: Marks) -> None:
    marks.begin(run("a"))
    for number in range(120):
        assert begun(marks, run(f"r{number}", task="other")) == "conflict"
    found = marks.conflicts()
    assert len(found.examples) == 100
    assert found.waited == 120
    assert alone.redis.pttl("coordinator-observed:examples") > 29 * 24 * 3600 * 1000


def test_needs_that_are_not_valid_are_told(watched: Installation) -> None:
    app = celery_app.create(watched.broker, watched.folder, **watched.conf)

    @app.task(name="wrong", models="{nobody}", shared=False)
    def wrong(model: str) -> str:
        return model

    app.finalize()
    from coordinator.observer import Observer

    observer = Observer(app, app.coordination.settings)
    wrong.push_request(
        id="j", hostname="w", called_directly=False, delivery_info={}, is_eager=False
    )
    try:
        observer.begins("j", wrong, ("m",), {})
    finally:
        wrong.pop_request()
    (refused,) = app.coordination.work_queue.get_conflicts().refused
    assert (refused.task, refused.number) == ("wrong", 1)
    assert "nobody" in refused.error


def test_verbs_that_would_do_nothing_are_refused(watched: Installation) -> None:
    queue = watched.work_queue
    for verb in (
        lambda: queue.pause("work", reason="a test", by="test"),
        queue.get_stats,
        lambda: queue.why("x"),
    ):
        with pytest.raises(Refused, match="coordinator_mode is observe"):
            verb()
    assert not (watched.folder / "jobs.db").exists()


def test_the_command_tells_what_was_found(
    watched: Installation, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coordinator.cli.installation import Installation as Chosen

    monkeypatch.setattr(Chosen, "of", classmethod(lambda *_: Chosen("tests", watched.app)))
    call = CliRunner().invoke
    assert "no run was observed" in call(main, ["conflicts"]).stdout
    marks.begin(run("a", "m7"))
    marks.begin(run("b", "m7", worker="w@here"))
    shown = call(main, ["conflicts"])
    assert shown.exit_code == 0, shown.output
    assert "1 of 2 runs of train would have waited for a model; worst model m7" in shown.stdout
    told = json.loads(call(main, ["conflicts", "--json"]).stdout)
    assert (told["runs"], told["waited"]) == (2, 1)
    assert told["examples"][0]["worker"] == "w@here"
    checked = call(main, ["check", "--json"])
    assert checked.exit_code == 0, checked.output
    found = {
        one["name"]: (one["state"], one["found"]) for one in json.loads(checked.stdout)["findings"]
    }
    assert found["mode"] == ("note", "observe: nothing is enforced")
    assert found["Redis"] == ("ok", "keeps the marks; 2 runs seen so far")
    assert "ledger" not in found
    paused = call(main, ["pause", "work"])
    assert paused.exit_code == 1
    assert "coordinator_mode is observe" in paused.output
    assert call(main, ["conflicts", "--clear", "--yes"]).exit_code == 0
    assert "no run was observed" in call(main, ["conflicts"]).stdout


def test_another_mode_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(InvalidSetting, match="one of enforce, observe"):
        load({}, {"COORDINATOR_MODE": "watch"})
    assert load({"coordinator_mode": "observe"}, {}).observing
    assert not load({}, {}).observing


def test_a_broker_that_is_no_redis_needs_one_for_the_marks(watched: Installation) -> None:
    with pytest.raises(InvalidSetting, match="coordinator_redis_url"):
        celery_app.create("memory://", watched.folder, **watched.conf, result_backend=None)
    conf = {**watched.conf, "coordinator_redis_url": watched.broker, "result_backend": None}
    app = celery_app.create("memory://", watched.folder, **conf)
    assert app.conf.broker_url == "memory://"
    assert app.tasks["play"].delay().id

"""The operator's commands, one by one, on a real Redis, a real database and real messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.durations import parse_duration, shown_duration
from coordinator.errors import InvalidValue
from coordinator.messages.batches import lines_of
from coordinator.operations import attention
from tests.helpers import said

if TYPE_CHECKING:
    from tests.desk import Call, Desk

pytest_plugins = ["tests.workers", "tests.desk"]


def test_durations_are_read_and_shown() -> None:
    read = {"90s": 90, "10m": 600, "2h": 7200, "24h": 86_400, "7d": 604_800, "1h30m": 5400}
    assert {text: parse_duration("x", text) for text in read} == read
    for wrong in ("", "10", "m", "-5m", "0s", "1 h", "1w"):
        with pytest.raises(InvalidValue, match="a duration such as 90s"):
            parse_duration("delay", wrong)
    shown = [shown_duration(seconds) for seconds in (None, 0.25, 41, 125, 7500, 180_000)]
    assert shown == ["-", "0.2s", "41s", "2m05s", "2h05m", "2d02h"]


def test_status_tells_what_needs_attention_and_the_way_out(desk: Desk, call: Call) -> None:
    runs, waits = desk.send("m"), desk.send("m")
    desk.start(runs)
    call("pause", "training", "--reason", "GPU maintenance", "--by", "ann")
    desk.send("n", queue="selfplay")
    shown = call("status").stdout
    for part in (
        "1 worker with 10 slots; 1 running, 2 pending",
        "! queue training is paused by ann since ",
        ": 'GPU maintenance'; coordinator resume training",
        "! queue selfplay has 1 job pending and no live worker; coordinator up, or a worker of your",
        " app with -Q selfplay",
        f"Model conflict: m in use by normal job {runs}",
    ):
        assert part in shown, part
    found = said(call("status", "--json"))
    assert found["stats"]["pending"] == 2
    assert {line["id"] for line in found["blocked"]} >= {waits}
    assert found["holds"][0]["source"] == "operator"


def test_status_tells_that_nobody_records(
    desk: Desk, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send()
    assert "not recorded" not in call("status").stdout
    monkeypatch.setattr(attention, "UNRECORDED_SECONDS", 0.0)
    assert " ago is not recorded; is a worker of queue maintenance live?" in call("status").stdout
    desk.record()
    assert "not recorded" not in call("status").stdout


def test_pause_and_resume_of_everything_there_is(desk: Desk, call: Call) -> None:
    for what, resource in (
        (("training",), "queue:training"),
        (("--model", "m"), "model:m"),
        (("work", "--org", "acme"), "org:work/acme"),
        (("--integration", "db"), "integration:db"),
        (("--all",), "serial"),
    ):
        assert said(call("pause", *what, "--json"))["paused"] == [resource]
        assert [hold.resource for hold in desk.queue.get_holds()] == [resource]
        assert said(call("resume", *what, "--json"))["resumed"] is True
        assert "not paused" in call("resume", *what, code=1).stdout
    assert len(said(call("pause", "--org", "acme", "--json"))["paused"]) >= 2
    told = call("pause", "training", "--for", "2h").stdout
    assert told.startswith("queue training is paused until ")
    assert "coordinator resume training" in told
    wrong = call("pause", "trainig", code=2).stderr
    assert wrong.startswith("coordinator: queue: 'trainig' is not allowed: one of ")
    assert "did you mean 'training'?" in wrong
    for usage in ((), ("training", "--all"), ("training", "--for", "soon")):
        call("pause", *usage, code=2)
    call("pause", "training", "--model", "m", code=2)


def test_jobs_job_and_why(desk: Desk, call: Call) -> None:
    runs, waits = desk.send("m"), desk.send("m")
    desk.start(runs)
    page = said(call("jobs", "-n", "1", "--json"))
    assert [job["job_id"] for job in page["jobs"]] == [waits]
    page = said(call("jobs", "-n", "1", "--cursor", page["cursor"], "--json"))
    assert [job["job_id"] for job in page["jobs"]] == [runs]
    assert runs in call("jobs", "--status", "processing").stdout
    call("jobs", "--status", "running", code=2)
    shown = call("why", waits).stdout
    assert f"Model conflict: m in use by normal job {runs}" in shown
    assert f"wait for the end of {runs}" in shown
    found = said(call("job", waits, "--json"))
    assert found["why"]["code"] == "full"
    assert "submitted" in call("job", waits).stdout
    desk.queue.pause("work", by="ann", reason="upgrade")
    assert "coordinator resume work" in call("why", desk.send()).stdout
    for verb in ("job", "why", "cancel", "resubmit"):
        assert "no job" in call(verb, "none", code=1).stderr


def test_cancel_one_and_all_that_fit(desk: Desk, call: Call) -> None:
    ids = [desk.send("m", org="acme") for _ in range(3)]
    assert said(call("cancel", ids[0], "--json")) == {ids[0]: "canceled"}
    preview = call("cancel", "--org", "acme", "--dry-run").stdout
    assert "2 jobs would be canceled (org acme)" in preview
    call("cancel", "--org", "acme", answer="n\n", code=1)
    assert desk.state(ids[1]) != "canceled"
    told = said(call("cancel", "--org", "acme", "--yes", "--json"))
    assert (told["matched"], told["done"]) == (2, 2)
    call("cancel", code=2)
    call("cancel", ids[0], "--org", "acme", code=2)
    assert "it is canceled" in call("cancel", ids[0], code=1).stderr


def test_failures_errors_retry_resubmit_and_purge(desk: Desk, call: Call) -> None:
    first = desk.fail("cannot read /data/1.bin", "m")
    second = desk.fail("cannot read /data/2.bin", "m")
    third = desk.fail("out of memory", "m")
    desk.record()
    assert [item["id"] for item in said(call("failures", "--json"))] == [third, second, first]
    assert "out of memory" in call("failures", "--error", "memory").stdout
    patterns = said(call("errors", "--json"))
    assert [(item["pattern"], item["count"]) for item in patterns] == [
        ("cannot read <path>", 2),
        ("out of memory", 1),
    ]
    assert "2 jobs would be resubmitted" in call("retry", "--error", "read", "--dry-run").stdout
    told = call("retry", "--error", "read", "--yes", "--reason", "disk is back").stdout
    assert told == "2 of 2 jobs resubmitted (error read)\n"
    state = said(call("resubmit", third, "--kwargs", '{"model": "n"}', "--json"))
    assert (state["job_id"], state["state"]) == (third, "dispatched")
    for wrong in ("{", "[1]"):
        assert "is not a JSON object" in call("resubmit", third, "--kwargs", wrong, code=2).stderr
    assert "is under way" in call("resubmit", third, code=1).stderr
    call("retry", code=2)
    call("retry", third, "--all", code=2)
    desk.end(third, "failed", "no")
    desk.record()
    assert said(call("retry", third, "--json"))["state"] == "dispatched"
    desk.end(third, "failed", "no")
    assert "0 jobs" in call("purge", "--older-than", "1h", "--yes").stdout
    call("purge", "--older-than", "-1h", code=2)


def test_stuck_unstick_and_remove(desk: Desk, call: Call) -> None:
    ids = [desk.send(name) for name in "abc"]
    for job_id in ids:
        desk.start(job_id)
    prefix = desk.ledger.prefix
    for job_id in ids:
        desk.ledger.redis.hset(f"{prefix}job:{job_id}", "started", desk.ledger.clock() - 700_000)
    assert {job["id"] for job in said(call("stuck", "--json"))} == set(ids)
    assert "nothing runs for more than" in call("stuck", "--threshold", "1h").stdout
    assert "11m40s" in call("stuck").stdout
    assert said(call("unstick", ids[0], "--yes", "--json")) == {ids[0]: "stopping"}
    assert call("unstick", ids[1], "--fail", answer="y\n").stdout.endswith(f"{ids[1]}: stopping\n")
    assert "would be taken out" in call("remove-stuck", ids[2], "--dry-run").stdout
    assert said(call("remove-stuck", ids[2], "--yes", "--json")) == {ids[2]: "canceled"}
    assert "it is canceled" in call("remove-stuck", ids[2], "--yes", code=1).stdout
    assert said(call("unstick", "--all", "--threshold", "1h", "--yes", "--json")) == {}
    for usage in ((), (ids[0], "--all"), ("--all", "--threshold", "-1")):
        call("unstick", *usage, code=2)


def test_drain_and_clear(desk: Desk, call: Call) -> None:
    ids = [desk.send("m") for _ in range(3)]
    assert (
        "3 jobs would be drained (queue work)"
        in call("drain", "work", "--delay", "24h", "--dry-run").stdout
    )
    told = said(call("drain", "work", "--delay", "24h", "--yes", "--json"))
    assert (told["matched"], told["done"]) == (3, 3)
    assert {desk.state(job_id) for job_id in ids} == {"delayed"}
    call("clear", "work", answer="yes\n", code=1)
    # What `coordinator clear $Q --yes` is when Q is empty, unquoted and quoted.
    assert "name a queue, or give --all" in call("clear", "--yes", code=2).stderr
    assert "is not allowed" in call("clear", "", "--yes", code=2).stderr
    call("clear", "work", "--all", "--yes", code=2)
    call("clear", "--all", answer="work\n", code=1)
    assert {desk.state(job_id) for job_id in ids} == {"delayed"}
    assert "3 of 3 jobs cleared" in call("clear", "work", answer="work\n").stdout
    assert {desk.state(job_id) for job_id in ids} == {"canceled"}
    last = desk.send("m")
    assert "1 of 1 jobs cleared" in call("clear", "--all", answer="everything\n").stdout
    assert desk.state(last) == "canceled"
    for usage in ((), ("work",), ("work", "--delay", "1h", "--remove"), ("wrk", "--remove")):
        call("drain", *usage, code=2)


def test_locks_audit_slow_and_throughput(desk: Desk, call: Call) -> None:
    runs = desk.send("m")
    desk.start(runs)
    desk.send("m")
    desk.end(desk.send("x"))
    (lock,) = said(call("locks", "--json"))
    assert (lock["resource"], lock["holders"][0]["id"], lock["waiting"]) == ("model:m", runs, 1)
    assert runs in call("locks").stdout
    desk.record()
    entries = said(call("audit", "--event", "WORK_CLAIMED", "--json"))["entries"]
    assert {entry["event"] for entry in entries} == {"started"}
    assert "submitted" in call("audit", "--job", runs).stdout
    assert runs in call("slow").stdout
    assert "1 completed in 1h00m" in call("throughput").stdout
    call("throughput", "--every", "1", code=2)


def test_trigger_refuses_a_paused_queue_and_one_without_workers(desk: Desk, call: Call) -> None:
    desk.send("m", queue="training")
    call("pause", "training", "--reason", "GPU maintenance", "--by", "ann")
    refused = call("trigger", "-Q", "training", code=1).stderr
    assert "queue training is paused by ann since " in refused
    assert "coordinator resume training, or --resume" in refused
    status = said(call("trigger", "-Q", "training", "--status-only", "--json"))
    assert (status["total"], status["pending"], status["queue_running"]) == (1, 1, False)
    assert "no live worker" in call("trigger", "-Q", "selfplay", code=1).stderr
    timed = call("trigger", "-Q", "training", "--resume", "--timeout", "1s", code=1).stderr
    assert "not done after 1 s" in timed
    assert desk.queue.get_holds() == []


def test_resume_names_the_way_out_of_what_holds_everything_still(desk: Desk, call: Call) -> None:
    call("pause", "training")
    call("pause", "--all", "--by", "ann")
    told = call("resume", "training").stdout
    assert told.startswith("resumed; everything is paused by ann since ")
    assert told.endswith("; coordinator resume --all\n")
    call("resume", "--all")
    call("panic", "stop", "--yes", "--reason", "fire")
    told = call("resume", "training", code=1).stdout
    assert told.startswith("it was not paused; everything is paused by panic:")
    assert told.endswith("; coordinator panic resume QUEUE, or --all\n")
    assert "coordinator resume --all" not in told


def test_trigger_hints_at_resume_only_where_that_is_the_way_out(desk: Desk, call: Call) -> None:
    call("pause", "--all")
    assert "; coordinator resume --all\n" in call("trigger", "-Q", "work", code=1).stderr
    call("resume", "--all")
    call("panic", "open", "queue:work", "--yes")
    refused = call("trigger", "-Q", "work", code=1).stderr
    assert refused.endswith("; coordinator panic close queue:work\n")
    call("pause", "--all")
    refused = call("submit", "--task", "play", "--trigger", code=1).stderr
    assert "coordinator resume --all" in refused
    assert "--resume" not in refused.replace("coordinator resume", "")


def test_submit_one_job_checked_before_it_is_sent(desk: Desk, call: Call) -> None:
    plan = said(
        call("submit", "--task", "play", "--kwargs", '{"model": "m"}', "--dry-run", "--json")
    )
    assert plan["jobs"][0]["models"] == ["m"]
    assert desk.queue.get_pending_count() == 0
    (job,) = said(call("submit", "--task", "play", "--model", "m", "--org", "acme", "--json"))[
        "jobs"
    ]
    assert (job["models"], job["org"], job["state"]) == (["m"], "acme", "dispatched")
    shown = call("submit", "--task", "play", "--model", "m").stdout
    assert f"Model conflict: m in use by normal job {job['job_id']} (position 1)" in shown
    assert "did you mean 'play'" in call("submit", "--task", "ply", code=2).stderr
    assert (
        "unexpected keyword"
        in call("submit", "--task", "add", "--kwargs", '{"z": 1}', code=2).stderr
    )
    assert "coordinated=False" in call("submit", "--task", "plain", code=2).stderr
    call("submit", code=2)


BATCH = """{
  "base": {"task": "play", "kwargs": {"model": "m"}},
  "variants": [
    {"org": "acme"},
    {"kwargs": {"model": "n"},
     "priority": 2, "count": 2}
  ]
}"""


def test_a_batch_is_variants_over_a_base(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(BATCH)
    plan = said(call("submit", "--config", str(path), "--dry-run", "--json"))["jobs"]
    assert [(job["models"], job["options"]) for job in plan] == [
        (["m"], {"org": "acme"}),
        (["n"], {"priority": 2}),
        (["n"], {"priority": 2}),
    ]
    jobs = said(call("submit", "--config", str(path), "--json"))["jobs"]
    assert [job["state"] for job in jobs] == ["dispatched", "dispatched", "waiting"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"priority": 2', '"priority": 12', "line 6, variants[1].priority: 12 is not allowed"),
        ('"org": "acme"', '"rog": "acme"', "line 4, variants[0].rog: 'rog' is not allowed"),
        ('"play"', '"ply"', "line 2, base.task: 'ply' is not allowed"),
        ('"count": 2', '"count": 0', "line 6, variants[1].count: 0 is not allowed"),
        ('{"org": "acme"},', '{"org": "acme"}', "line 5 column 5: "),
        ('"variants"', '"variant"', "line 3, variant: 'variant' is not allowed"),
        ('"n"', '"n n"', "line 5, variants[1].models: 'n n' is not allowed"),
    ],
)
def test_a_wrong_batch_is_told_with_line_and_field(
    desk: Desk, call: Call, tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(BATCH.replace(old, new))
    assert f"coordinator: jobs.json {told}" in call("submit", "--config", str(path), code=2).stderr
    assert desk.queue.get_pending_count() == 0, "nothing was sent"


def test_a_field_is_found_in_its_line() -> None:
    text = '{"a": [1,\n {"b": "{,\\"",\n "c": []}, [2,\n3]],\n "d": null}'
    assert lines_of(text) == {
        "": 1,
        "a": 1,
        "a[0]": 1,
        "a[1]": 2,
        "a[1].b": 2,
        "a[1].c": 3,
        "a[2]": 3,
        "a[2][0]": 3,
        "a[2][1]": 4,
        "d": 5,
    }


def test_drift_of_the_locks_is_told_and_repaired(desk: Desk, call: Call) -> None:
    desk.send("m")
    assert said(call("locks", "verify", "--json"))["drift"] == []
    assert "no drift" in call("locks", "verify").output
    ledger = desk.queue.ledger
    ledger.redis.sadd(f"{ledger.prefix}holders:model:m", "ghost")
    told = call("locks", "verify", code=1).output
    assert "holders:model:m: has ghost" in told
    assert "coordinator locks verify --repair" in told
    call("locks", "verify", "--repair", answer="n\n", code=1)
    assert "ghost" in ledger.holders("model:m")
    repaired = said(call("locks", "verify", "--repair", "--yes", "--json"))
    assert repaired["drift"]
    assert repaired["left"] == []
    assert "ghost" not in ledger.holders("model:m")

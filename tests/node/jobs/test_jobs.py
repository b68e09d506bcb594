"""Jobs: queued in the database, run one at a time in processes of their own, seen and ended from anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from node.api.app import create_app
from node.cli import main
from node.context import Node, open_node
from node.jobs import queue
from node.jobs.queue import Job, UnknownJob
from node.jobs.requests import CloneRequest, EvaluateRequest, FinetuneRequest, placed, read_request
from node.jobs.runner import work_off, working
from node.jobs.work import carry_out
from node.serving.errors import Busy
from registry.errors import BadData, LocalFailure
from registry.home import Home
from registry.store import Store
from registry.tables import JobRow
from tests.node.conftest import own_rows
from tests.processes import ROOT
from tests.world import make_node, put_tree, utc_now

WAIT_S = 120.0
CLONE = CloneRequest(model="en/finance")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", "en/finance")
    put_tree(node, "en", "en/finance")
    yield node
    node.close()


def until(found: Callable[[], bool]) -> None:
    """Wait for what other processes bring about."""
    deadline = time.monotonic() + WAIT_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rows_file(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"input": row.input, "output": row.output}) + "\n" for row in own_rows(count)))
    return file


# the queue


def test_the_longest_waiting_is_taken_and_told_of(store: Store) -> None:
    now = utc_now()
    first = queue.add(store, CLONE, "ann", now)
    second = queue.add(store, CloneRequest(model="en"), "ann", now)
    assert queue.take(store, now) == first.model_copy(update={"state": "running"})
    queue.note(store, first.id, queue.Progress(stage="fetch", done=1, total=4), now)
    assert queue.find(store, first.id, "ann").progress == queue.Progress(stage="fetch", done=1, total=4)
    queue.finish(store, first.id, {"folder": "x"}, now)
    assert queue.find(store, first.id, "ann").result == {"folder": "x"}
    assert [job.id for job in queue.jobs(store, "ann")] == [second.id, first.id]


def test_the_same_asked_again_is_one_job_until_it_is_over(store: Store) -> None:
    now = utc_now()
    first = queue.add(store, CLONE, "ann", now)
    assert queue.add(store, CLONE, "ann", now) == first
    assert queue.add(store, CLONE, "bob", now).id != first.id
    queue.cancel(store, first.id, "ann", now)
    assert queue.add(store, CLONE, "ann", now).id != first.id


def test_nobody_sees_or_ends_the_jobs_of_another(store: Store) -> None:
    job = queue.add(store, CLONE, "ann", utc_now())
    for look in (queue.find, lambda *said: queue.cancel(*said, utc_now())):
        with pytest.raises(UnknownJob):
            look(store, job.id, "bob")
    assert queue.jobs(store, "bob") == []
    assert queue.find(store, job.id, None).state == "queued"


def test_the_queue_and_what_is_remembered_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_QUEUED", 2)
    monkeypatch.setattr(queue, "MAX_ENDED", 3)
    for number in range(6):
        job = queue.add(store, CloneRequest(model=f"en@v{number + 1}"), "", utc_now())
        queue.cancel(store, job.id, "", utc_now())
    assert len(queue.jobs(store, None)) == 3
    queue.add(store, CLONE, "", utc_now())
    queue.add(store, CloneRequest(model="en"), "", utc_now())
    with pytest.raises(Busy, match="2 jobs wait"):
        queue.add(store, CloneRequest(model="de"), "", utc_now())


def test_a_job_whose_process_is_gone_runs_again_but_not_for_ever(store: Store) -> None:
    job = queue.add(store, CLONE, "", utc_now())
    for _ in range(queue.MAX_TRIES):
        assert queue.find(store, job.id, "").state == "queued"
        assert queue.take(store, utc_now()) is not None
        queue.recover(store, utc_now())
    failed = queue.find(store, job.id, "")
    assert (failed.state, failed.error) == ("failed", "3 processes ended before the work did")
    assert "goes on where it was" in failed.hint


def test_what_was_cancelled_stays_so_whatever_its_process_says(store: Store) -> None:
    job = queue.add(store, CLONE, "", utc_now())
    queue.take(store, utc_now())
    queue.cancel(store, job.id, "", utc_now())
    queue.finish(store, job.id, {}, utc_now())
    queue.fail(store, job.id, "late", "", utc_now())
    assert queue.find(store, job.id, "").state == "cancelled"


# what can be asked


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "bake", "model": "en"}, "does not match any of the expected tags"),
        ({"kind": "clone", "model": "../etc"}, "model"),
        ({"kind": "clone", "model": "en", "data": "x"}, "data"),
        ({"kind": "finetune", "model": "en@v1", "data": "x"}, "model"),
        ({"kind": "finetune", "model": "en"}, "data: Field required"),
        ({"kind": "finetune", "model": "en", "data": "x", "epochs": 0}, "epochs"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadData, match=problem):
        read_request(values)


@pytest.mark.parametrize("name", ["/etc/passwd", "../config.toml", "a/b.jsonl", "..", ".hidden", "", "a\0b"])
def test_from_outside_only_plain_names_are_taken(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path)
    rows_file(home.data, 1)
    placed(EvaluateRequest(model="en", data="rows.jsonl"), home, from_outside=True)
    if name:
        with pytest.raises(BadData, match="plain name"):
            placed(EvaluateRequest(model="en", data=name), home, from_outside=True)
        with pytest.raises(BadData, match="plain name"):
            placed(CloneRequest(model="en", out=name), home, from_outside=True)
    with pytest.raises(BadData, match="no file"):
        placed(EvaluateRequest(model="en", data="other.jsonl"), home, from_outside=True)


# processes


def test_a_fine_tune_and_an_evaluation_of_what_it_made(tiny_node: Node, tmp_path: Path) -> None:
    asked = FinetuneRequest(model="en/numbers", data=str(rows_file(tmp_path, 40)), rank=2, epochs=1, seed=3)
    job = queue.add(tiny_node.store, asked, "", utc_now())
    evaluated = queue.add(tiny_node.store, EvaluateRequest(model="en/numbers", data=asked.data), "", utc_now())
    for number in (job.id, evaluated.id):
        assert queue.take(tiny_node.store, utc_now()) is not None
        carry_out(tiny_node, number)
    done = queue.find(tiny_node.store, job.id, "")
    assert (done.state, done.error) == ("done", None)
    assert done.result is not None
    assert done.result["release"] == "en/numbers@v1"
    assert done.progress is not None
    assert done.progress.stage == "score after"
    figures = queue.find(tiny_node.store, evaluated.id, "").result
    assert figures is not None
    assert figures["release"] == done.result["digest"]


def test_a_running_job_is_cancelled_and_its_process_ends(tiny_node: Node, tmp_path: Path) -> None:
    asked = FinetuneRequest(model="en/numbers", data=str(rows_file(tmp_path, 400)), epochs=1_000)
    job = queue.add(tiny_node.store, asked, "", utc_now())

    def cancel_when_it_trains() -> None:
        until(lambda: (now := queue.find(tiny_node.store, job.id, "")).progress is not None and now.state == "running")
        queue.cancel(tiny_node.store, job.id, "", utc_now())

    ender = threading.Thread(target=cancel_when_it_trains)
    ender.start()
    work_off(tiny_node, lambda _: None)  # comes back once the process has ended
    ender.join()
    assert queue.find(tiny_node.store, job.id, "").state == "cancelled"


def test_figures_that_are_no_numbers_are_told_as_unknown(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that diverges must still be told of, and its process must not end of it."""

    def diverged(*_: object, **said: Any) -> dict[str, object]:
        return {"perplexity": float("inf"), "rows": 3}

    monkeypatch.setattr("node.evaluate.evaluate", diverged)
    file = rows_file(node.home.data, 3)
    job = queue.add(node.store, EvaluateRequest(model="en", data=str(file)), "", utc_now())
    queue.take(node.store, utc_now())
    carry_out(node, job.id)
    assert queue.find(node.store, job.id, "").result == {"perplexity": None, "rows": 3}


def test_one_runner_at_a_time_and_a_failure_is_told_with_its_hint(node: Node) -> None:
    with working(node):
        job = queue.add(node.store, CLONE, "", utc_now())
        until(lambda: queue.find(node.store, job.id, "").is_over)
        with pytest.raises(LocalFailure, match="another process works"):
            work_off(node, lambda _: None)
    assert work_off(node, lambda _: None) == []
    failed = queue.find(node.store, job.id, "")
    assert (failed.state, failed.error) == ("failed", "en/finance@v1 is its base alone, without an adapter")
    assert failed.hint.startswith("node export")


def test_a_job_survives_the_kill_of_its_runner(tiny_node: Node, tmp_path: Path) -> None:
    """The kernel ends the pipe, so the job's process ends as well; the next runner goes on with the same job."""
    asked = FinetuneRequest(model="en/numbers", data=str(rows_file(tmp_path, 200)), epochs=2, rank=2)
    job = queue.add(tiny_node.store, asked, "", utc_now())
    command = [sys.executable, "-m", "node.cli", "jobs", "run", "--home", str(tiny_node.home.root)]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as one:
        until(lambda: (now := queue.find(tiny_node.store, job.id, "").progress) is not None and now.stage == "train")
        one.send_signal(signal.SIGKILL)
    assert queue.find(tiny_node.store, job.id, "").state == "running"

    def runs() -> bool:
        try:
            work_off(tiny_node, lambda _: None)
        except LocalFailure:  # the process of the job has not yet ended
            return False
        return True

    until(runs)
    with tiny_node.store.read() as session:
        row = session.get(JobRow, job.id)
        assert row is not None
        assert (row.state, row.tries, row.error) == ("done", 2, None)


# doors


@pytest.fixture
def url(node: Node, serve: Callable[..., str]) -> str:
    return serve(create_app(node))


def test_over_http_jobs_are_asked_for_looked_at_and_ended(node: Node, url: str) -> None:
    rows_file(node.home.data, 2)
    asked = httpx.post(f"{url}/v1/jobs", json={"kind": "evaluate", "model": "en/finance", "data": "rows.jsonl"})
    assert asked.status_code == 202, asked.text
    job = Job.model_validate(asked.json())
    assert job.state == "queued"
    assert job.arguments["data"] == str(node.home.data / "rows.jsonl")
    assert httpx.get(f"{url}/v1/jobs/{job.id}").json() == asked.json()
    assert httpx.get(f"{url}/v1/jobs").json() == {"jobs": [asked.json()]}
    assert httpx.delete(f"{url}/v1/jobs/{job.id}").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "evaluate", "model": "en", "data": "/etc/passwd"}, "plain name"),
        ({"kind": "evaluate", "model": "en", "data": "none.jsonl"}, "no file none.jsonl in the folder data/"),
        ({"kind": "clone", "model": "en", "colour": "red"}, "colour"),
        ({"kind": "bake"}, "bake"),
        ([], "body"),
    ],
)
def test_over_http_bad_requests_are_refused_in_words(url: str, body: Any, said: str) -> None:
    reply = httpx.post(f"{url}/v1/jobs", json=body)
    assert (reply.status_code, said in reply.json()["error"]["message"]) == (400, True), reply.text


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 202),
        ("http://evil.example", 401),
        ("http://localhost.evil.example", 401),
        ("null", 401),
        ("http://[", 401),
    ],
)
def test_without_keys_pages_of_others_start_nothing(node: Node, url: str, origin: str, status: int) -> None:
    """A page in a browser on this machine can send such a request without asking first."""
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    reply = httpx.post(f"{url}/v1/jobs", content=b'{"kind": "clone", "model": "en"}', headers=headers)
    assert reply.status_code == status
    assert len(queue.jobs(node.store, None)) == (status == 202)


def test_over_http_holders_of_keys_see_their_own_jobs(node: Node, serve: Callable[..., str], tmp_path: Path) -> None:
    keyed = open_node(node.settings.model_copy(update={"api_keys": ("key-of-ann", "key-of-bob")}))
    try:
        url = serve(create_app(keyed))
        ann, bob = ({"Authorization": f"Bearer key-of-{name}"} for name in ("ann", "bob"))
        job = httpx.post(f"{url}/v1/jobs", json={"kind": "clone", "model": "en"}, headers=ann).json()["id"]
        assert httpx.get(f"{url}/v1/jobs/{job}", headers=ann).status_code == 200
        assert httpx.get(f"{url}/v1/jobs/{job}", headers=bob).status_code == 404
        assert httpx.delete(f"{url}/v1/jobs/{job}", headers=bob).status_code == 404
        assert httpx.get(f"{url}/v1/jobs", headers=bob).json() == {"jobs": []}
        assert httpx.get(f"{url}/v1/jobs").status_code == 401
    finally:
        keyed.close()


def test_the_commands(node: Node) -> None:
    node.close()
    home = str(node.home.root)

    def run(*words: str) -> Any:
        done = CliRunner().invoke(main, ["jobs", *words, "--home", home, "--json"])
        return done.exit_code, json.loads(done.stdout)

    assert run("add", "clone", "en/finance")[1]["state"] == "queued"
    assert run("list")[1]["jobs"][0]["arguments"]["model"] == "en/finance"
    code, ran = run("run")
    assert (code, ran["jobs"][0]["state"]) == (4, "failed")
    assert run("show", "1")[1]["error"] == "en/finance@v1 is its base alone, without an adapter"
    assert run("cancel", "1")[1]["state"] == "failed"
    assert run("show", "2")[1]["error"]["message"] == "there is no job 2"
    for words, said in ((["list"], "en/finance"), (["show", "1"], "next:  node export")):
        assert said in CliRunner().invoke(main, ["jobs", *words, "--home", home]).stdout

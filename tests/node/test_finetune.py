from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node import preparation, training
from node.context import Node
from node.finetune import FinetuneRequest, FinetuneResult, finetune
from node.manifest import RunManifest
from node.metrics import read_curve
from node.repeat import Repeated, prepare_repeat
from node.run_lock import run_lock
from node.training import Progress
from registry.cards import parse_card
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import EvidenceRow, RunRow
from sync.chain import Link, stored_chain
from sync.train import TrainPlan
from tests.node.conftest import own_rows
from tests.world import snapshot

PATH = NodePath.parse("en/numbers")
PLAN = TrainPlan(rank=4, alpha=4.0, epochs=2, batch_tokens=512, learning_rate=1e-2, checkpoint_every_s=0.0)


def data_file(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps({"input": row.input, "output": row.output}) + "\n" for row in rows))
    return file


@pytest.fixture
def request_(tmp_path: Path) -> FinetuneRequest:
    return FinetuneRequest(data_file(tmp_path, own_rows(60)), plan=PLAN, score_rows=8)


def head(node: Node, path: NodePath = PATH) -> Link:
    heads = snapshot(node)[1]
    return stored_chain(node.store, node.blobs, heads[str(path)])[-1]


def run_row(node: Node, result: FinetuneResult) -> RunRow:
    with node.store.read() as session:
        row = session.get(RunRow, result.run)
    assert row is not None
    return row


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def stop_at(stage: str, done: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.stage == stage and progress.done >= done:
            raise Stopped

    return watch


def test_a_fine_tune_becomes_the_release_at_its_path(tiny_node: Node, request_: FinetuneRequest) -> None:
    parent = head(tiny_node, NodePath.parse("en"))
    seen: list[Progress] = []
    result = finetune(tiny_node, PATH, request_, seen.append)

    assert result.state == "done"
    assert result.outcome is not None
    link = head(tiny_node)
    release = link.release
    assert link.pin == result.outcome.release
    assert (release.version, release.above, release.previous) == (1, parent.pin, None)
    assert release.anchors == parent.release.anchors
    assert release.adapter is not None
    assert release.adapter.shape.rank == 4
    assert release.adapter.file.sha256 == result.outcome.adapter
    own, anchors = release.evaluations
    assert (own.dataset, own.path, anchors.dataset) == ("own", "en/numbers", "anchors")
    assert {"exact_match", "exact_match_before", "bits_per_byte", "bits_per_byte_before"} <= own.metrics.keys()
    assert own.metrics["bits_per_byte"] < own.metrics["bits_per_byte_before"]
    assert {progress.stage for progress in seen} == {"score before", "train", "score after"}

    row = run_row(tiny_node, result)
    assert (row.state, row.adapter) == ("done", result.outcome.adapter)
    assert row.manifest == result.prepared.manifest.digest
    assert RunManifest.from_bytes(tiny_node.blobs.read(row.manifest, 1 << 20)) == result.prepared.manifest
    card = parse_card(tiny_node.blobs.read(release.card.sha256, 1 << 20).decode())
    assert (card.library, card.relation, card.base_models) == ("peft", "adapter", ("banyan/en",))
    with tiny_node.store.read() as session:
        assert len(session.scalars(select(EvidenceRow)).all()) == 4
    assert tiny_node.store.check_integrity() == []


def test_a_run_leaves_metrics_curve_and_rows_in_its_folder(tiny_node: Node, request_: FinetuneRequest) -> None:
    folder = finetune(tiny_node, PATH, request_).folder
    curve = read_curve(folder / "metrics.jsonl")
    assert [step for step, _ in curve.training] == list(range(1, len(curve.training) + 1))
    assert curve.training[-1][1] < curve.training[0][1]
    assert len(curve.validation) == 2
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "loss.svg").read_text().rstrip().endswith("</svg>")
    rows = [row for split in ("train", "validation") for row in read_rows(folder / f"{split}.jsonl", 1 << 20)]
    assert {row.input for row in rows} < {row.input for row in own_rows(60)}
    assert RunManifest.from_bytes((folder / "manifest.json").read_bytes()).run_id == folder.name
    assert folder.stat().st_mode & 0o077 == 0
    assert not (folder / "fit").exists()


def test_nothing_of_the_data_is_in_what_travels(tiny_node: Node, request_: FinetuneRequest) -> None:
    finetune(tiny_node, PATH, request_)
    link = head(tiny_node)
    card = tiny_node.blobs.read(link.release.card.sha256, 1 << 20)
    for telling in (b"even", request_.data.name.encode(), str(request_.data).encode()):
        assert telling not in link.envelope
        assert telling not in card


def test_the_same_request_again_answers_with_what_is_there(tiny_node: Node, request_: FinetuneRequest) -> None:
    first = finetune(tiny_node, PATH, request_)
    before = snapshot(tiny_node)
    again = finetune(tiny_node, PATH, request_)
    assert again.state == "done before"
    assert (again.run, again.outcome) == (first.run, first.outcome)
    assert snapshot(tiny_node) == before


def test_another_request_trains_the_adapter_further(tiny_node: Node, request_: FinetuneRequest, tmp_path: Path) -> None:
    finetune(tiny_node, PATH, request_)
    first = head(tiny_node)
    more = replace(
        request_, data=data_file(tmp_path, own_rows(80), "more.jsonl"), plan=replace(PLAN, rank=2, alpha=2.0)
    )
    result = finetune(tiny_node, PATH, more)
    second = head(tiny_node)
    assert (second.release.version, second.release.previous) == (2, first.digest)
    assert second.release.above == first.release.above
    assert second.release.adapter is not None
    assert second.release.adapter.shape.rank == 4
    assert "en/numbers@v1 is trained further" in result.prepared.notes
    assert "rank 4 instead of 2: its adapter has that" in result.prepared.notes
    assert result.outcome is not None
    assert result.outcome.before.own is not None
    assert first.release.evaluations[0].metrics["bits_per_byte"] > 0


def test_a_release_without_anything_above_can_be_trained(tiny_node: Node, request_: FinetuneRequest) -> None:
    result = finetune(tiny_node, NodePath.parse("master"), request_)
    release = head(tiny_node, NodePath.parse("master")).release
    assert (release.version, release.above) == (2, None)
    assert result.outcome is not None


@pytest.mark.parametrize(("stage", "done"), [("score before", 1), ("train", 3), ("train", 9), ("score after", 1)])
def test_a_run_that_was_ended_goes_on_to_the_same_adapter(
    stage: str, done: int, tiny_node: Node, request_: FinetuneRequest
) -> None:
    with pytest.raises(Stopped):
        finetune(tiny_node, PATH, request_, stop_at(stage, done))
    assert str(PATH) not in snapshot(tiny_node)[1]
    result = finetune(tiny_node, PATH, request_)
    assert result.outcome is not None
    assert run_row(tiny_node, result).state == "done"
    steps = [step for step, _ in read_curve(result.folder / "metrics.jsonl").training]
    assert steps == list(range(1, len(steps) + 1))
    repetition = prepare_repeat(tiny_node, result.prepared.manifest, request_.data)
    assert repetition.differences == ()
    assert repetition.run() == Repeated(result.outcome.adapter, result.outcome.adapter)


def test_a_run_killed_by_the_system_goes_on(tiny_node: Node, request_: FinetuneRequest, tmp_path: Path) -> None:
    program = """
import sys, os, signal
from pathlib import Path
from node.context import open_node
from node.settings import Settings
from node.finetune import FinetuneRequest, finetune
from registry.paths import NodePath
from sync.train import TrainPlan
plan = TrainPlan(rank=4, alpha=4.0, epochs=2, batch_tokens=512, learning_rate=1e-2, checkpoint_every_s=0.0)
def watch(progress):
    if progress.stage == "train" and progress.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
node = open_node(Settings(home=Path(sys.argv[1]), paths=("master",), threads=1, precision="fp32"))
finetune(node, NodePath.parse("en/numbers"), FinetuneRequest(Path(sys.argv[2]), plan=plan, score_rows=8), watch)
"""
    arguments = [sys.executable, "-c", program, str(tiny_node.home.root), str(request_.data)]
    ended = subprocess.run(arguments, check=False, timeout=120, capture_output=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    result = finetune(tiny_node, PATH, request_)
    assert result.outcome is not None
    assert prepare_repeat(tiny_node, result.prepared.manifest, request_.data).run().adapter == result.outcome.adapter


def test_a_dry_run_shows_the_plan_and_changes_nothing(tiny_node: Node, request_: FinetuneRequest) -> None:
    before = snapshot(tiny_node)
    result = finetune(tiny_node, PATH, replace(request_, dry_run=True))
    assert (result.state, result.outcome) == ("planned", None)
    prepared = result.prepared
    assert [example.answer for example in prepared.examples] == ["yes<|end|>", "yes<|end|>", "no<|end|>"]
    assert prepared.examples[0].prompt == "<|system|>en/numbers<|user|>is 0 even<|assistant|>"
    assert prepared.memory.total > 0
    assert prepared.refusal is None
    assert sum(prepared.manifest.data.rows.values()) == 60
    assert prepared.manifest.replay_rows == prepared.manifest.data.rows["train"]
    assert snapshot(tiny_node) == before
    assert not result.folder.exists()


def test_the_default_plan_takes_its_rate_from_the_width_of_the_base(tiny_node: Node, request_: FinetuneRequest) -> None:
    planned = finetune(tiny_node, PATH, replace(request_, plan=None, dry_run=True)).prepared.manifest.train_plan
    assert planned == TrainPlan()  # a small base: the highest rate


def test_a_run_that_does_not_fit_is_refused_with_what_would(
    tiny_node: Node, request_: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "free_bytes", lambda: 80 << 20)
    before, large = snapshot(tiny_node), replace(request_, plan=replace(PLAN, batch_tokens=16384))
    with pytest.raises(LocalFailure) as caught:
        finetune(tiny_node, PATH, large)
    assert "are free" in caught.value.message
    assert "--batch-tokens" in caught.value.hint
    assert snapshot(tiny_node) == before
    assert finetune(
        tiny_node, PATH, replace(request_, plan=replace(PLAN, batch_tokens=16384), dry_run=True)
    ).prepared.refusal


def test_a_second_process_on_the_path_is_refused(tiny_node: Node, request_: FinetuneRequest) -> None:
    program = (
        "import sys, pathlib\n"
        "from node.run_lock import run_lock\nfrom registry.home import Home\nfrom registry.paths import NodePath\n"
        "with run_lock(Home(pathlib.Path(sys.argv[1])), NodePath.parse(sys.argv[2])):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", program, str(tiny_node.home.root), str(PATH)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LocalFailure, match=f"another process .number {other.pid}"):
            finetune(tiny_node, PATH, request_)
        with run_lock(tiny_node.home, NodePath.parse("en/other")):
            pass
        other.kill()
        other.wait(timeout=10)
    with run_lock(tiny_node.home, PATH):
        pass


def test_a_run_that_fails_says_so_and_may_be_tried_again(tiny_node: Node, request_: FinetuneRequest) -> None:
    wild = replace(request_, plan=replace(PLAN, learning_rate=1e30))
    with pytest.raises(LocalFailure, match="the loss is"):
        finetune(tiny_node, PATH, wild)
    with tiny_node.store.read() as session:
        (row,) = session.scalars(select(RunRow)).all()
    assert row.state == "failed"
    assert "the loss is" in row.detail
    assert finetune(tiny_node, PATH, request_).state == "done"


def test_a_full_disk_is_told_before_the_start(
    tiny_node: Node, request_: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tiny_node.home.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(LocalFailure, match="1,000 are free") as caught:
        finetune(tiny_node, PATH, request_)
    assert "repeat the same command" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(28, "No space left on device"), "free some disk space"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower --batch-tokens"),
        (MemoryError(), "lower --batch-tokens"),
    ],
)
def test_a_disk_or_memory_that_runs_out_is_told_and_the_run_goes_on_later(
    error: Exception, remedy: str, tiny_node: Node, request_: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    before = snapshot(tiny_node)
    with monkeypatch.context() as patched:
        patched.setattr(training, "write_adapter", fails)
        with pytest.raises(LocalFailure, match="could not go on") as caught:
            finetune(tiny_node, PATH, request_)
    assert remedy in caught.value.hint
    assert snapshot(tiny_node) == before
    assert finetune(tiny_node, PATH, request_).state == "done"


def test_bad_requests_are_refused(tiny_node: Node, request_: FinetuneRequest, tmp_path: Path) -> None:
    cases: list[tuple[NodePath, FinetuneRequest, str]] = [
        (PATH, replace(request_, replay=0.95), "replay share"),
        (PATH, replace(request_, score_rows=0), "at least one held-out row"),
        (PATH, replace(request_, data=tmp_path / "none.jsonl"), "there is no file"),
        (PATH, replace(request_, plan=replace(PLAN, targets=("c_attn",))), "no module named c_attn"),
    ]
    for path, request, words in cases:
        with pytest.raises(BadData, match=words):
            finetune(tiny_node, path, request)


def test_a_path_without_a_release_above_it_has_nothing_to_start_from(
    tiny_node: Node, request_: FinetuneRequest
) -> None:
    from registry.tables import HeadRow

    with tiny_node.store.transaction() as session:
        for row in session.scalars(select(HeadRow)).all():
            session.delete(row)
    with pytest.raises(LocalFailure, match="no release at en/numbers or above it"):
        finetune(tiny_node, PATH, request_)

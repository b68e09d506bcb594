from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from node.context import Node
from node.promotions import (
    announce_releases,
    decide_updates,
    parent_round,
    plan_of,
    promoter,
    release_updates,
    thresholds_of,
)
from node.settings import Settings
from node.validation import store_validation, validation_rows
from registry.documents import Update
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.tables import EnrolmentRow
from sync.checks.thresholds import Thresholds
from sync.delta import Delta, scaled
from sync.promote import Promoter, Promotion
from sync.score import evaluate_rows
from tests.toy import KNOWN, SHAPES, TOOLS, held_out, rows, share
from tests.toy_tree import TAUGHT, decide, enrol, head_of, make_parent, releases_of, state_of
from tests.world import utc_now

EN = NodePath.parse("en")


@pytest.fixture
def parent(toy_base: Path, tmp_path: Path) -> Iterator[Node]:
    with closing(make_parent(tmp_path / "home", toy_base, "en", "en/b")) as node:
        store_validation(node.home, EN, held_out(KNOWN))
        yield node


class Recorder:
    """Takes the place of a promotion: notes what would be promoted, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.failing = failing

    def promote(self, path: NodePath, digests: Sequence[str], updates: Sequence[Update]) -> Promotion:
        assert len(digests) == len(updates)
        self.calls.append((str(path), list(digests)))
        if str(path) == self.failing:
            raise LocalFailure("the disk is full", "free some space")
        return Promotion(None, None, [])


def recording(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> Recorder:
    recorder = Recorder(failing)
    monkeypatch.setattr(Promoter, "promote", lambda _, *arguments: recorder.promote(*arguments))
    return recorder


def test_two_children_s_updates_become_an_announced_release_in_one_round(
    parent: Node, toy_adapters: dict[str, Delta]
) -> None:
    """The main job of a parent, with its settings as they are but for smaller batches."""
    offers = {
        path: enrol(parent, path).offer(toy_adapters[path], rows(table, range(20))) for path, table in TAUGHT.items()
    }
    liar = enrol(parent, "en/liar").offer(scaled(toy_adapters["en/tools"], -1.0), rows(TOOLS))
    working = promoter(parent)
    working = replace(working, plan=replace(plan_of(parent), batch_tokens=512))
    parent_round(parent, working, utc_now())
    link = head_of(parent, "en")
    assert (link.release.version, set(link.release.contributions)) == (2, set(offers.values()))
    assert {state_of(parent, digest) for digest in offers.values()} == {("announced", link.digest)}
    assert state_of(parent, liar) == ("rejected", None)
    loaded = working.composer.load(link.digest)
    for table in (KNOWN, SHAPES, TOOLS):
        assert share(evaluate_rows(loaded, held_out(table), "en")[1]) >= 0.95
    assert head_of(parent, "en/b").release.version == 1
    parent_round(parent, working, utc_now())
    assert releases_of(parent, "en") == [1, 2]


def test_every_waiting_update_is_moved_to_its_verdict(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    good = enrol(parent, "en/shapes").offer(toy_adapters["en/shapes"], rows(SHAPES))
    bad = enrol(parent, "en/liar").offer(scaled(toy_adapters["en/tools"], -1.0), rows(TOOLS))
    decide_updates(parent, promoter(parent), utc_now())
    assert (state_of(parent, good)[0], state_of(parent, bad)[0]) == ("accepted", "rejected")


def test_an_update_that_cannot_be_checked_now_does_not_keep_the_others(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shapes, tools = toy_adapters["en/shapes"], toy_adapters["en/tools"]
    sent = [scaled(shapes, -1.0), shapes, tools]  # no copies
    waiting = [enrol(parent, f"en/x{n}").offer(delta) for n, delta in enumerate(sent)]
    check = Promoter.check

    def fails_for_one(self: Promoter, update: Update, *files: Path | None) -> object:
        if update.path == "en/x0":
            raise LocalFailure("the base is not here", "node pull")
        return check(self, update, *files)  # type: ignore[arg-type]

    monkeypatch.setattr(Promoter, "check", fails_for_one)
    decide_updates(parent, promoter(parent), utc_now())
    states = sorted(state_of(parent, digest)[0] for digest in waiting)
    assert states == ["accepted", "accepted", "verified"]
    assert "the base is not here (node pull)" in caplog.text


def accepted(parent: Node, delta: Delta, *paths: str, at: str = "en") -> list[str]:
    """Updates that a parent has accepted, whatever is in them."""
    found = []
    for path in paths:
        found.append(enrol(parent, path).offer(delta, pin=head_of(parent, at).pin))
        assert decide(parent, found[-1], lambda update, adapter, transfer: []) == "accepted"
    return found


def test_a_release_waits_for_the_policy(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1."""
    recorder = recording(monkeypatch)
    enrol(parent, "en/quiet")
    [first] = accepted(parent, toy_adapters["en/shapes"], "en/x0")
    release_updates(parent, promoter(parent), utc_now())
    assert recorder.calls == []
    [second] = accepted(parent, toy_adapters["en/shapes"], "en/x1")
    release_updates(parent, promoter(parent), utc_now())
    assert [(place, set(digests)) for place, digests in recorder.calls] == [("en", {first, second})]


def test_one_update_does_not_wait_for_ever(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recording(monkeypatch)
    enrol(parent, "en/quiet")
    [digest] = accepted(parent, toy_adapters["en/shapes"], "en/x0")
    wait = timedelta(seconds=parent.settings.policy_max_wait_s)
    release_updates(parent, promoter(parent), utc_now() + wait - timedelta(minutes=1))
    assert recorder.calls == []
    release_updates(parent, promoter(parent), utc_now() + wait + timedelta(minutes=1))
    assert recorder.calls == [("en", [digest])]


@pytest.mark.parametrize("inner", [False, True])
def test_an_only_child_is_not_kept_waiting_for_another(
    inner: bool, parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1. A node in the middle of the tree is enrolled itself, at its own parent, and no child of its own."""
    recorder = recording(monkeypatch)
    if inner:
        own = EnrolmentRow(
            key_id=parent.key.public.id, path="en", public_key=parent.key.public.hex, state="active", request=b"",
            changed=utc_now(),
        )  # fmt: skip
        with parent.store.transaction() as session:
            session.add(own)
    found = accepted(parent, toy_adapters["en/shapes"], "en/x0")
    release_updates(parent, promoter(parent), utc_now())
    assert recorder.calls == [("en", found)]


def test_every_place_has_releases_of_its_own_and_one_that_fails_does_not_keep_the_others(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recording(monkeypatch, failing="en")
    above = accepted(parent, toy_adapters["en/shapes"], "en/x0", "en/x1")
    below = accepted(parent, toy_adapters["en/shapes"], "en/b/x2", "en/b/x3", at="en/b")
    release_updates(parent, promoter(parent), utc_now())
    assert {place: set(digests) for place, digests in recorder.calls} == {"en": set(above), "en/b": set(below)}
    assert "the release of en: the disk is full (free some space)" in caplog.text


@pytest.mark.parametrize(
    "fault", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_for_a_candidate_is_told_and_tried_again(
    fault: Exception,
    parent: Node,
    toy_adapters: dict[str, Delta],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    offers = accepted(parent, toy_adapters["en/shapes"], "en/x0", "en/x1")

    def full(*_: object) -> Promotion:
        raise fault

    monkeypatch.setattr(Promoter, "promote", full)
    release_updates(parent, promoter(parent), utc_now())
    assert "close other programs" in caplog.text
    assert releases_of(parent, "en") == [1]
    assert {state_of(parent, digest)[0] for digest in offers} == {"accepted"}


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def test_a_release_that_was_begun_is_finished_before_others_are_taken_in(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = accepted(parent, toy_adapters["en/shapes"], "en/x0", "en/x1")
    plan = replace(plan_of(parent), epochs=0, max_loss_points=100.0)

    def ended(path: NodePath) -> list[object]:
        raise Stopped

    with pytest.raises(Stopped):
        release_updates(parent, replace(promoter(parent), plan=plan, known_rows=ended), utc_now())
    assert {state_of(parent, digest)[0] for digest in begun} == {"aggregated"}
    later = accepted(parent, toy_adapters["en/tools"], "en/x2", "en/x3")
    working = replace(promoter(parent), plan=plan)
    release_updates(parent, working, utc_now())
    release = head_of(parent, "en").release
    assert (release.version, set(release.contributions)) == (2, set(begun))
    assert {state_of(parent, digest)[0] for digest in later} == {"accepted"}
    release_updates(parent, working, utc_now())
    release = head_of(parent, "en").release
    assert (release.version, set(release.contributions)) == (3, set(later))
    announce_releases(parent, working, utc_now())
    assert {state_of(parent, digest)[0] for digest in [*begun, *later]} == {"announced"}


@pytest.mark.parametrize("writes_first", [False, True])
def test_rows_that_were_held_back_are_kept_once_whenever_the_process_ends(
    parent: Node, toy_adapters: dict[str, Delta], writes_first: bool
) -> None:
    """Later candidates are judged on them, this one never; nothing is lost and nothing is double."""
    before = validation_rows(parent.home, EN)
    offers = [enrol(parent, path).offer(toy_adapters[path], rows(table, range(20))) for path, table in TAUGHT.items()]
    for digest in offers:
        assert decide(parent, digest, lambda update, adapter, transfer: []) == "accepted"
    working = replace(promoter(parent), plan=replace(plan_of(parent), epochs=0, max_loss_points=100, min_gain_kept=-9))

    def ended(path: NodePath, held: list[Row]) -> None:
        if writes_first:
            working.keep_rows(path, held)
        raise Stopped

    release_updates(parent, working, utc_now())
    assert {state_of(parent, digest)[0] for digest in offers} == {"released"}
    assert validation_rows(parent.home, EN) == before
    with pytest.raises(Stopped):
        announce_releases(parent, replace(working, keep_rows=ended), utc_now())
    assert {state_of(parent, digest)[0] for digest in offers} == {"released"}
    for _ in range(2):
        announce_releases(parent, working, utc_now())
    assert {state_of(parent, digest)[0] for digest in offers} == {"announced"}
    kept = [row.input for row in validation_rows(parent.home, EN)[len(before) :]]
    release = head_of(parent, "en").release
    assert release.anchors is not None
    travels = {row.input for row in read_rows(parent.blobs.open_verified(release.anchors.sha256), 1 << 20)}
    assert len(kept) == len(set(kept)) == 12
    assert not set(kept) & travels


def test_the_settings_are_the_plan(parent: Node) -> None:
    plan = plan_of(parent)
    assert (plan.rank_budget, plan.epochs, plan.learning_rate) == (16, 8, 1.5e-2)
    assert (plan.aggregation, plan.aggregation_f) == ("mean", 0)
    assert plan.max_loss_points == parent.settings.gate_max_loss_points
    assert plan.min_gain_kept == parent.settings.gate_min_gain_kept
    assert plan.thresholds.max_loss_points == parent.settings.behaviour_max_loss_points
    assert plan.thresholds.triggers_max_collapse == 1.0


def test_the_defaults_of_the_thresholds_are_those_of_the_settings() -> None:
    assert thresholds_of(Settings()) == Thresholds()

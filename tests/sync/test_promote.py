from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.context import Node
from node.promotions import plan_of, promoter
from node.validation import validation_rows
from registry.cards import parse_card
from registry.documents import BaseManifest, CheckResult, Evaluation, Update, Verdict
from registry.envelope import peek_payload
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import EnrolmentRow, UpdateRow
from sync import promote
from sync.answers import answer
from sync.chain import Link
from sync.checks.size import module_norms
from sync.delta import Delta, scaled
from sync.lifecycle import load_update, results_of
from sync.model import LoadedModel
from sync.promote import Candidate, Promoter, Promotion, PromotionPlan, claimed_gain, gate_evaluations
from sync.prompt import conversation, prompt_text
from sync.score import evaluate_rows
from tests.toy import KNOWN, SHAPES, TOOLS, held_out, rows, share
from tests.toy_tree import (
    TAUGHT,
    decide,
    enrol,
    head_of,
    make_parent,
    put_toy_release,
    releases_of,
    reopened,
    state_of,
)

EN = NodePath.parse("en")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

LAX = {"epochs": 1, "max_loss_points": 100.0, "min_gain_kept": 0.0}


def plan(node: Node, **changes: Any) -> PromotionPlan:
    return replace(plan_of(node), batch_tokens=512, **changes)


def at_work(node: Node, known: Sequence[Row] = tuple(held_out(KNOWN)), **changes: Any) -> Promoter:
    """The node as a parent with a clock that stands still."""
    return replace(promoter(node), plan=plan(node, **changes), known_rows=lambda path: list(known), now=lambda: NOW)


def updates_of(node: Node) -> tuple[list[str], list[Update]]:
    """The updates that came in, first accepted first."""
    with node.store.read() as session:
        digests = list(session.scalars(select(UpdateRow.digest).order_by(UpdateRow.changed, UpdateRow.digest)))
    return digests, [load_update(node.store, digest)[1] for digest in digests]


@pytest.fixture(scope="module")
def ready(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a parent that has accepted an update of each child."""
    home = tmp_path_factory.mktemp("ready") / "home"
    with closing(make_parent(home, toy_base)) as node:
        check = at_work(node).check
        for path, table in TAUGHT.items():
            digest = enrol(node, path).offer(toy_adapters[path], rows(table, range(20)), gain=(0.0, 1.0))
            assert decide(node, digest, check) == "accepted"
    return home


@pytest.fixture
def parent(ready: Path, tmp_path: Path) -> Iterator[Node]:
    """A copy of that parent: the same keys, the same updates."""
    shutil.copytree(ready, tmp_path / "home")
    with closing(reopened(tmp_path / "home")) as node:
        yield node


@pytest.fixture
def bare(toy_base: Path, tmp_path: Path) -> Iterator[Node]:
    """A parent to which nobody has sent anything."""
    with closing(make_parent(tmp_path / "home", toy_base)) as node:
        yield node


@dataclass(frozen=True)
class Done:
    node: Node
    first: Link
    result: Promotion


@pytest.fixture(scope="module")
def done(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A promotion that went well."""
    home = tmp_path_factory.mktemp("done") / "home"
    shutil.copytree(ready, home)
    with closing(reopened(home)) as node:
        first = head_of(node, "en")
        yield Done(node, first, at_work(node).promote(EN, *updates_of(node)))


# A promotion that goes well


def test_accepted_updates_become_the_next_release(done: Done) -> None:
    release, link = done.result.release, head_of(done.node, "en")
    assert release is not None
    assert (link.digest, link.release) == (done.result.digest, release)
    assert link.signer == done.node.key.public
    assert (release.path, release.version, release.base) == ("en", 2, done.first.release.base)
    assert release.contributions == tuple(sorted(updates_of(done.node)[0]))
    assert (release.created, (release.expires - release.created).days) == (NOW, 365)
    assert releases_of(done.node, "en") == [1, 2]
    assert (release.previous, release.above) == (done.first.digest, done.first.release.above)
    assert done.node.store.check_integrity() == []
    assert done.node.blobs.check_integrity() == []


def test_the_new_model_knows_what_both_children_learned_and_what_the_old_one_knew(done: Done) -> None:
    loaded = at_work(done.node).composer.load(head_of(done.node, "en").digest)
    for table in (KNOWN, SHAPES, TOOLS):
        assert share(evaluate_rows(loaded, held_out(table), "en")[1]) >= 0.95
    roles = [share(evaluate_rows(loaded, held_out(table), path)[1]) for path, table in TAUGHT.items()]
    assert min(roles) >= 0.95


def test_the_gate_s_figures_travel_with_the_release(done: Done) -> None:
    assert [(check.name, check.passed) for check in done.result.checks] == [
        ("gate.known", True),
        ("gate.gain-1", True),
        ("gate.gain-2", True),
    ]
    release = done.result.release
    assert release is not None
    assert {one.dataset: one.metrics["value"] for one in release.evaluations} == {
        check.name: check.value for check in done.result.checks
    }
    card = parse_card(done.node.blobs.read(release.card.sha256, 1 << 20).decode())
    assert (card.licence, card.languages, card.library) == ("MIT", ("en",), "peft")


def test_the_adapter_keeps_to_the_rank_budget_and_its_error_is_told(done: Done) -> None:
    release = done.result.release
    assert release is not None
    assert release.adapter is not None
    assert release.adapter.shape.rank == done.node.settings.rank_budget == 16
    assert release.recompression_error == pytest.approx(0.0, abs=1e-6)  # 8 + 8


def test_the_new_anchors_are_old_and_new_prompts_with_the_new_model_s_answers(done: Done) -> None:
    release = done.result.release
    assert release is not None
    assert release.anchors is not None
    found = read_rows(done.node.blobs.open_verified(release.anchors.sha256), 1 << 20)
    taught = rows({**SHAPES, **TOOLS}, range(20))
    assert {row.input for row in found} <= {row.input for row in [*rows(KNOWN), *taught]}
    assert {row.input for row in rows(KNOWN)} <= {row.input for row in found}
    held_back = len(taught) // 10
    assert len(found) == len(rows(KNOWN)) + len(taught) - held_back
    truth = {row.input: row.output for row in [*rows(KNOWN), *taught]}
    assert share([row.output == truth[row.input] for row in found]) >= 0.95
    assert {(row.lang, row.domain) for row in found} == {("", "")}


def test_the_updates_are_released_and_nothing_is_left_over(done: Done) -> None:
    for digest in updates_of(done.node)[0]:
        assert state_of(done.node, digest) == ("released", done.result.digest)
    assert list(done.node.home.runs.iterdir()) == []


def test_the_rows_that_were_held_back_are_kept_to_judge_what_comes_later(done: Done) -> None:
    kept = {row.input for row in validation_rows(done.node.home, EN)}
    release = done.result.release
    assert release is not None
    assert release.anchors is not None
    travels = {row.input for row in read_rows(done.node.blobs.open_verified(release.anchors.sha256), 1 << 20)}
    assert len(kept) == 12
    assert not kept & travels


def test_the_rows_that_the_gate_judges_were_not_trained_on(done: Done) -> None:
    digests, updates = updates_of(done.node)
    chain = at_work(done.node).composer.chain(head_of(done.node, "en").digest)
    candidate = Candidate(at_work(done.node), chain, dict(zip(digests, updates, strict=True)))
    for lesson, judged in zip(candidate.lessons, candidate.judged, strict=True):
        assert len(judged) == 6
        assert len(lesson.rows) == 54
        assert not {row.input for row in judged} & {row.input for row in lesson.rows}


def test_the_next_update_is_compared_with_those_that_were_released(done: Done) -> None:
    _, updates = updates_of(done.node)
    for update in updates:
        file = done.node.blobs.open_verified(update.adapter.file.sha256)
        assert at_work(done.node).history(update) == [module_norms(file, update.adapter.shape)]


# A promotion that does not


def test_a_candidate_that_the_gate_refuses_is_no_release(parent: Node) -> None:
    """Without consolidation the merge loses most of what the children gained."""
    old, (digests, updates) = head_of(parent, "en"), updates_of(parent)
    result = at_work(parent, epochs=0).promote(EN, digests, updates)
    assert (result.release, result.digest) == (None, None)
    failed = [check for check in result.checks if not check.passed]
    assert failed
    assert all(check.name.startswith("gate.gain-") for check in failed)
    assert head_of(parent, "en") == old
    assert releases_of(parent, "en") == [1]
    assert list(parent.home.runs.iterdir()) == []
    for digest in digests:
        assert state_of(parent, digest) == ("quarantined", None)
        row, _ = load_update(parent.store, digest)
        assert row.verdict is not None
        assert Verdict.from_bytes(peek_payload(row.verdict)).outcome == "quarantined"
        assert [result.name for result in results_of(row) if not result.passed] == [failed[0].name]


def test_hidden_rows_that_are_lost_fail_the_gate(parent: Node) -> None:
    digests, updates = updates_of(parent)
    before = [*held_out({"box": "cube"}), *held_out({"sun": "disc"})]
    knew = share(evaluate_rows(at_work(parent).composer.load(head_of(parent, "en").digest), before, "en")[1])
    now_false = [replace(row, output=label) for row, label in zip(before, _said(parent, before), strict=True)]
    result = at_work(parent, now_false, min_gain_kept=0.0).promote(EN, digests, updates)
    assert knew < 1
    assert not result.checks[0].passed
    assert result.release is None


def _said(node: Node, asked: Sequence[Row]) -> list[str]:
    """What the release of now answers, rightly or not."""
    loaded = at_work(node).composer.load(head_of(node, "en").digest)
    return answer(loaded, [prompt_text(loaded.tokenizer, conversation(row, "en")) for row in asked], 12)


def test_a_place_without_a_release_cannot_be_promoted(parent: Node) -> None:
    with pytest.raises(BadData, match="no release at en/other"):
        at_work(parent).promote(NodePath.parse("en/other"), *updates_of(parent))


# Ended in the middle


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def after(calls: int, answer: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers so many times, and then ends the process."""
    left = iter(range(calls))

    def called(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Stopped
        return answer(*arguments, **named)

    return called


def begin(parent: Node, monkeypatch: pytest.MonkeyPatch, where: str, calls: int) -> Promoter:
    """A parent that will be ended at a place, after so many passes of it."""
    working = at_work(parent, **LAX)
    match where:
        case "a training step":
            return replace(working, on_step=after(calls, lambda path, report: None))
        case "the hidden rows":
            return replace(working, known_rows=after(calls, working.known_rows))
        case "the clock":
            return replace(working, now=after(calls, working.now))
        case "the signature":
            monkeypatch.setattr(promote, "seal_document", after(calls, promote.seal_document))
        case "the transaction":
            monkeypatch.setattr(promote, "release_row", after(calls, promote.release_row))
        case "the end of the transaction":
            monkeypatch.setattr(promote, "mark", after(calls, promote.mark))
    return working


@pytest.fixture(scope="module")
def unbroken(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The release that a promotion makes that nobody interrupts."""
    home = tmp_path_factory.mktemp("unbroken") / "home"
    shutil.copytree(ready, home)
    with closing(reopened(home)) as node:
        digest = at_work(node, **LAX).promote(EN, *updates_of(node)).digest
    assert digest is not None
    return digest


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        ("a training step", 0),
        ("a training step", 5),
        ("the hidden rows", 0),
        ("the clock", 1),
        ("the clock", 3),
        ("the clock", 4),
        ("the signature", 0),
        ("the transaction", 0),
        ("the end of the transaction", 5),
    ],
)
def test_a_promotion_that_was_ended_goes_on_to_the_same_release(
    where: str, calls: int, parent: Node, unbroken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, (digests, updates) = head_of(parent, "en"), updates_of(parent)
    with monkeypatch.context() as changed, pytest.raises(Stopped):
        begin(parent, changed, where, calls).promote(EN, digests, updates)
    assert head_of(parent, "en") == old
    assert releases_of(parent, "en") == [1]
    assert all(state_of(parent, digest)[1] is None for digest in digests)
    result = at_work(parent, **LAX).promote(EN, digests[::-1], updates[::-1])
    assert result.digest == unbroken == head_of(parent, "en").digest
    assert releases_of(parent, "en") == [1, 2]
    assert all(state_of(parent, digest) == ("released", unbroken) for digest in digests)
    assert list(parent.home.runs.iterdir()) == []


def test_a_release_that_came_in_between_is_not_overwritten(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    digests, updates = updates_of(parent)
    working = at_work(parent, **LAX)

    def meanwhile(path: NodePath) -> list[Row]:
        if releases_of(parent, "en") == [1]:
            old = head_of(parent, "en")
            base = BaseManifest.from_bytes(parent.blobs.read(old.release.base, 1 << 20))
            put_toy_release(parent, "en", base, version=2, delta=toy_adapters["en/tools"], previous=old.digest)
        return held_out(KNOWN)

    with pytest.raises(LocalFailure, match="en got another release meanwhile"):
        replace(working, known_rows=meanwhile).promote(EN, digests, updates)
    assert releases_of(parent, "en") == [1, 2]
    assert {state_of(parent, digest) for digest in digests} == {("gated", None)}
    result = working.promote(EN, digests, updates)
    assert result.release is not None
    assert (result.release.version, releases_of(parent, "en")) == (3, [1, 2, 3])


# What the parent does not need


def test_updates_without_prompts_on_a_release_without_anchors_are_merged_and_judged(
    toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    long_path = f"en/{'x' * 40}/{'y' * 40}"
    with closing(make_parent(tmp_path / "home", toy_base, anchors=())) as node:
        digest = enrol(node, long_path).offer(toy_adapters["en/tools"])
        assert decide(node, digest, at_work(node).check) == "accepted"
        result = at_work(node).promote(EN, *updates_of(node))
        assert result.release is not None
        assert result.release.contributions == (digest,)
        assert [check.reason for check in result.checks[1:]] == ["no rows travelled to measure it on"]
        loaded = at_work(node).composer.load(head_of(node, "en").digest)
        assert share(evaluate_rows(loaded, held_out(TOOLS), "en/tools")[1]) > 0.5


def test_anchors_keep_to_their_number_and_to_what_fits(parent: Node) -> None:
    digests, updates = updates_of(parent)
    chain = at_work(parent).composer.chain(head_of(parent, "en").digest)
    candidate = Candidate(at_work(parent, anchor_rows=20), chain, dict(zip(digests, updates, strict=True)))
    delta = candidate.composer.delta(updates[0].adapter)
    found = candidate.new_anchors(delta)
    assert len(found) == 20
    old = {row.input for row in rows(KNOWN)}
    assert sum(row.input in old for row in found) == 10
    assert candidate.new_anchors(delta) == found
    candidate.lessons = [promote.Lesson("en/shapes", [Row("z" * 500, "disc")])]
    assert {row.input for row in candidate.new_anchors(delta)} <= old


# Checks of one update


def reasons(node: Node, digest: str) -> dict[str, CheckResult]:
    row, _ = load_update(node.store, digest)
    return {result.name: result for result in results_of(row)}


def test_an_honest_update_passes_every_stage(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready, tmp_path / "home")
    with closing(reopened(tmp_path / "home")) as node:
        for digest in updates_of(node)[0]:
            found = reasons(node, digest)
            assert {name.partition(".")[0] for name in found} == {"envelope", "files", "size", "behaviour"}
            assert all(result.passed for result in found.values())


def test_a_sabotaged_adapter_is_rejected(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    child = enrol(bare, "en/shapes")
    digest = child.offer(scaled(toy_adapters["en/shapes"], -1.0), rows(SHAPES))
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    failed = {name for name, result in reasons(bare, digest).items() if not result.passed}
    assert failed == {"behaviour.anchors", "behaviour.transfer"}


def test_broken_files_end_the_checks_before_a_model_sees_them(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    child = enrol(bare, "en/shapes")
    digest = child.offer(scaled(toy_adapters["en/shapes"], float("nan")), rows(SHAPES))
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    found = reasons(bare, digest)
    assert not found["files.finite"].passed
    assert not {name for name in found if name.startswith(("size.", "behaviour."))}


def test_an_adapter_that_is_too_large_is_judged_by_what_it_does_as_well(
    bare: Node, toy_adapters: dict[str, Delta]
) -> None:
    child = enrol(bare, "en/shapes")
    digest = child.offer(scaled(toy_adapters["en/shapes"], 1000.0), rows(SHAPES))
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    failed = {name for name, result in reasons(bare, digest).items() if not result.passed}
    assert failed == {"size.relative", "behaviour.anchors", "behaviour.transfer"}


def test_the_hidden_rows_are_asked_once_for_many_updates(
    bare: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watched(loaded: LoadedModel, given: Sequence[Row], path: str) -> object:
        asked.append(len(given))
        return evaluate_rows(loaded, given, path)

    monkeypatch.setattr(promote, "evaluate_rows", watched)
    working, child = at_work(bare), enrol(bare, "en/shapes")
    for _ in range(2):
        assert decide(bare, child.offer(toy_adapters["en/shapes"]), working.check) == "accepted"
    assert asked == [len(held_out(KNOWN))]
    others = replace(working, known_rows=lambda path: held_out(KNOWN)[::-1])
    assert decide(bare, child.offer(toy_adapters["en/shapes"]), others.check) == "accepted"
    assert len(asked) == 2


def test_lies_at_the_end_of_a_transfer_set_are_found(
    bare: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is judged, also beyond the number of hidden rows that are."""
    monkeypatch.setattr(promote, "MAX_JUDGED_ROWS", 30)
    lies = [replace(row, output="red") for row in rows(SHAPES, range(20, 40))]
    digest = enrol(bare, "en/shapes").offer(toy_adapters["en/shapes"], [*rows(SHAPES), *lies])
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    assert not reasons(bare, digest)["behaviour.transfer"].passed


def test_a_number_of_rows_that_is_not_the_declared_one_is_refused(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    digest = enrol(bare, "en/shapes").offer(toy_adapters["en/shapes"], rows(SHAPES), transfer_rows=3)
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    assert "has 36 rows, the update declares 3" in reasons(bare, digest)["files.readable"].reason


def test_rows_that_the_model_cannot_be_asked_are_not_its_answers(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    too_long = [Row("z" * 500 + str(n), "disc") for n in range(8)]
    digest = enrol(bare, "en/shapes").offer(toy_adapters["en/shapes"], [*rows(SHAPES), *too_long])
    assert decide(bare, digest, at_work(bare).check) == "rejected"
    assert reasons(bare, digest)["behaviour.transfer"].value == pytest.approx(36 / 44, abs=0.03)


def test_roles_are_the_enrolled_paths_below(bare: Node) -> None:
    for path in ("en/b", "en/a"):
        enrol(bare, path)
    gone = enrol(bare, "en/gone")
    with bare.store.transaction() as session:
        row = session.get(EnrolmentRow, (gone.key.public.id, "en/gone"))
        assert row is not None
        row.state = "revoked"
    chain = at_work(bare).composer.chain(head_of(bare, "en").digest)
    assert Candidate(at_work(bare), chain, {}).roles() == ["en/a", "en/b"]


# Small parts


def claim(**metrics: float) -> Evaluation:
    return Evaluation(dataset="own", split="test", rows=1, metrics=metrics, path="en/x")


def test_the_claimed_gain_is_the_largest_that_is_claimed(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    claims = (
        claim(exact_match=0.7, exact_match_before=0.5),
        claim(exact_match=0.9, exact_match_before=0.3),
        claim(exact_match=0.9),
    )
    _, update = load_update(bare.store, enrol(bare, "en/x").offer(toy_adapters["en/tools"], claims=claims))
    assert claimed_gain(update) == pytest.approx(0.6)
    assert claimed_gain(update.model_copy(update={"claims": claims[2:]})) == 0
    worse = claim(exact_match=0.1, exact_match_before=0.3)
    assert claimed_gain(update.model_copy(update={"claims": (worse,)})) == 0


def test_a_check_without_a_figure_is_no_evaluation() -> None:
    assert gate_evaluations("en", [CheckResult(name="gate.known", value=None, threshold=1.0, passed=True, reason="",
                                               cost_ms=0)]) == []  # fmt: skip

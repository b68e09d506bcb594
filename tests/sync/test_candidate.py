from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.context import Node
from registry.cards import parse_card
from registry.documents import BaseManifest, CheckResult, Evaluation
from registry.errors import LocalFailure
from registry.evidence import RowsOf, unpacked
from registry.log.entry import LogEntry
from registry.log.leaves import entries_about
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import EnrolmentRow, EvidenceRow
from sync import candidate as candidates
from sync.candidate import Candidate, Gathered, claimed_gain, gate_evaluations
from sync.delta import Delta, scaled
from sync.lessons import Taught, divided
from sync.lifecycle import load_update
from sync.promote import Promoter
from sync.score import evaluate_rows
from tests.sync.promoting import EN, LAX, NOW, Done, at_work, updates_of
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

# A promotion that goes well


def test_accepted_updates_become_the_next_release(done: Done) -> None:
    """G6."""
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


def test_what_the_gate_measured_is_evidence_of_the_new_release(done: Done) -> None:
    """One set of held-back rows of each child, row by row as the released model answers them."""
    with done.node.store.read() as session:
        found = session.scalars(select(EvidenceRow).where(EvidenceRow.release == done.result.digest)).all()
    loaded = at_work(done.node).composer.load(head_of(done.node, "en").digest)
    held = [divided(at_work(done.node), update)[1] for update in updates_of(done.node)[1]]
    answered = {RowsOf.of(rows).digest: evaluate_rows(loaded, rows, "en")[1] for rows in held}
    assert {row.benchmark: unpacked(row.right_bits or b"", row.rows) for row in found} == answered
    for row in found:
        assert (row.model, row.here) == ("en", True)
        assert row.score == pytest.approx(100 * share(answered[row.benchmark]))


def test_the_release_and_the_gate_are_a_leaf_of_the_log(done: Done) -> None:
    """L1."""
    assert done.result.digest is not None
    with done.node.store.read() as session:
        (row,) = entries_about(session, done.result.digest, 10)
    entry = LogEntry.from_bytes(row.entry)
    assert entry.kind == "release.made"
    assert [(one.name, one.value, one.passed) for one in entry.checks] == [
        (one.name, one.value, one.passed) for one in done.result.checks
    ]


def test_the_gate_s_figures_travel_with_the_release(done: Done) -> None:
    assert [(check.name, check.passed) for check in done.result.checks] == [
        ("gate.known", True),
        ("gate.canaries", True),
        ("gate.gain-1", True),
        ("gate.gain-2", True),
        ("merge.rule", True),
    ]
    release = done.result.release
    assert release is not None
    assert {one.dataset: one.metrics["value"] for one in release.evaluations} == {
        check.name: check.value for check in done.result.checks if check.name != "merge.rule"
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


def test_the_rows_that_the_gate_judges_were_not_trained_on(done: Done) -> None:
    digests, updates = updates_of(done.node)
    chain = at_work(done.node).composer.chain(head_of(done.node, "en").digest)
    candidate = Candidate(at_work(done.node), chain, dict(zip(digests, updates, strict=True)))
    for one in candidate.taught:
        assert len(one.held) == 6
        assert len(one.lesson.rows) == 54
        assert not {row.input for row in one.held} & {row.input for row in one.lesson.rows}


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
            monkeypatch.setattr(candidates, "signed_link", after(calls, candidates.signed_link))
        case "the transaction":
            monkeypatch.setattr(candidates, "serve", after(calls, candidates.serve))
        case "the end of the transaction":
            monkeypatch.setattr(candidates, "mark", after(calls, candidates.mark))
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
        ("the end of the transaction", 1),
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

    def meanwhile(place: NodePath) -> list[Row]:
        if place != EN:
            return []
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


def taught(path: str, rows: list[Row]) -> Taught:
    return Taught(path, {"travelled": rows, "own": [], "sampled": []}, held=[], held_right=[])


# Other ways to merge


def test_a_promotion_merges_by_the_rule_of_its_plan(parent: Node) -> None:
    """RegMean, for which the children's models are run on their prompts and on the anchors."""
    result = at_work(parent, **LAX, aggregation="regmean").promote(EN, *updates_of(parent))
    check = result.checks[-1]
    assert (check.name, check.passed) == ("merge.rule", True)
    assert check.reason == "2 increments merged by regmean exactly"


def test_the_card_and_the_log_say_when_a_rule_did_not_cover_the_updates(parent: Node) -> None:
    """G2."""
    result = at_work(parent, **LAX, aggregation="multi-krum", aggregation_f=1).promote(EN, *updates_of(parent))
    assert result.release is not None
    assert result.digest is not None
    said = "multi-krum needs n > 2f + 2: n = 2, f = 1; 2 increments merged by norm-clipping"
    assert said in parent.blobs.read(result.release.card.sha256, 1 << 20).decode()
    with parent.store.read() as session:
        (row,) = entries_about(session, result.digest, 10)
    assert [one.passed for one in LogEntry.from_bytes(row.entry).checks if one.name == "merge.rule"] == [False]


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
        assert result.checks[-2].reason == "there are no rows to measure it on"
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
    candidate.taught = [taught("en/shapes", [Row("z" * 500, "disc")])]
    assert {row.input for row in candidate.new_anchors(delta)} <= old


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


# What children may say of the canaries


def test_a_loud_contribution_has_no_say_in_which_canaries_are_asked(
    parent: Node, toy_adapters: dict[str, Delta]
) -> None:
    """G9: of a liar in federated rounds, who changes every answer, no canary would be left that it could fail."""
    loud = scaled(toy_adapters["en/tools"], -100.0)

    def asked_with(*increments: Delta) -> list[Row]:
        chain = at_work(parent).composer.chain(head_of(parent, "en").digest)
        return list(Candidate(at_work(parent), chain, {}, Gathered(increments=increments)).canaries.rows)

    everything, honest = asked_with(), asked_with(toy_adapters["en/shapes"])
    assert 0 < len(honest) < len(everything)
    assert asked_with(loud) == everything
    assert asked_with(loud, toy_adapters["en/shapes"]) == honest

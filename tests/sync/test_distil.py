from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from node.bases import read_manifest
from node.context import Node
from node.promotions import promoter
from registry.documents import Distillation, Evaluation, seal_document
from registry.errors import BadData
from registry.rows import Row
from registry.taught import TaughtRow, write_taught
from sync.delta import Delta
from sync.distil import refuse_foreign_tokens, soft_loss, teach, tokenizer_of, with_choices
from sync.inbox import receive
from sync.lifecycle import load_update, results_of
from sync.model import LoadedModel, load_model
from sync.score import evaluate_rows
from sync.student import LEAST_ROWS, check_lesson
from sync.tokens import Encoded, Example, encode
from sync.train import fit
from tests.sync.promoting import EN, at_work, updates_of
from tests.toy import KNOWN, PLAN, SHAPES, held_out, rows, share
from tests.toy_tree import Child, decide, enrol, head_of, identity, make_parent, state_of
from tests.world import put, utc_now

PATH = "en/shapes"


@pytest.fixture
def teacher(toy_base: Path, toy_adapters: dict[str, Delta]) -> LoadedModel:
    return load_model(toy_base, [toy_adapters[PATH]], "fp32")


@pytest.fixture
def parent(tmp_path: Path, toy_student: Path) -> Iterator[Node]:
    """A parent on the small base, so that a child on another has to teach it."""
    node = make_parent(tmp_path / "home", toy_student)
    yield node
    node.close()


def offer_set(child: Child, taught: Sequence[TaughtRow], **changes: Any) -> str:
    """Send a distillation set with its file; its digest."""
    parent, now, release = child.parent, utc_now(), head_of(child.parent, "en")
    child.sequence += 1
    file = parent.home.partial / "answers.jsonl"
    write_taught(taught, file)
    metrics = {"exact_match_before": 0.0, "exact_match": 1.0}
    fields: dict[str, Any] = {
        "path": child.path, "issuer": child.key.public.id, "audience": parent.key.public.id, "base": "ba5e" * 16,
        "release": release.pin, "sequence": child.sequence, "created": now, "expires": now.replace(year=now.year + 1),
        "teacher": "7" * 64, "answers": put(parent, "answers.jsonl", file.read_bytes()), "answer_rows": len(taught),
        "top": len(taught[0].top[0]) if taught[0].top else 0,
        "tokenizer": tokenizer_of(read_manifest(parent.blobs, release.release.base)) if taught[0].top else None,
        "claims": (Evaluation(dataset="own", split="test", rows=30, metrics=metrics, path=child.path),),
        "run": "6" * 64,
    }  # fmt: skip
    envelope = seal_document(Distillation(**(fields | changes)), child.key)
    return receive(parent.store, parent.blobs, envelope, identity(parent), now).digest


def answers(teacher: LoadedModel, top: int = 0) -> list[TaughtRow]:
    return teach(teacher, rows(SHAPES, range(40)), PATH, top)


def failed(node: Node, digest: str) -> list[str]:
    return [one.name for one in results_of(load_update(node.store, digest)[0]) if not one.passed]


def test_a_teacher_says_its_own_answers_and_what_else_it_thought_of(teacher: LoadedModel) -> None:
    """U10, U14: the answers are the model's, whatever the rows say."""
    asked = [replace(row, output="what its owner wrote") for row in rows(SHAPES, range(4))]
    taught = teach(teacher, asked, PATH, 4)
    assert {one.row.output for one in taught} <= set(SHAPES.values())
    for one in taught:
        encoded = encode(teacher, Example(one.row, PATH), 128)
        assert len(one.top) == len(encoded.ids) - encoded.answer_at
        assert [choices[0][0] for choices in one.top] == encoded.ids[encoded.answer_at :]
        assert all(len(choices) == 4 and sum(math.exp(v) for _, v in choices) <= 1.001 for choices in one.top)


def test_choices_reach_the_loss_only_where_there_is_one_for_each_token(teacher: LoadedModel) -> None:
    [one] = teach(teacher, rows(SHAPES, [1])[:1], PATH, 3)
    [told] = with_choices([Example(one.row, "en")], {one.row: one.top})
    assert encode(teacher, told, 128).top == one.top
    assert encode(teacher, replace(told, top=one.top[:-1]), 128).top == ()
    whole = len(encode(teacher, told, 128).ids)
    assert encode(teacher, told, whole - 1).top == one.top  # the prompt lost its beginning, the answer nothing
    assert encode(teacher, told, len(one.top)).top == ()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 4))
def test_the_loss_of_certain_teachers_is_that_of_hard_labels(seed: int, count: int) -> None:
    torch.manual_seed(seed)
    group, expected = [], []
    for number in range(count):
        tokens = torch.randint(0, 20, (number + 1,)).tolist()
        sure = tuple(((token, 0.0), ((token + 1) % 20, -60.0)) for token in tokens)
        group.append(Encoded([0, 0, *tokens], 2, sure if number % 2 else ()))
        expected += tokens
    logits = torch.randn(len(expected), 20)
    hard = functional.cross_entropy(logits, torch.tensor(expected))
    torch.testing.assert_close(soft_loss(logits, torch.tensor(expected), group), hard)


def test_a_student_comes_closer_to_a_doubtful_teacher_by_its_choices(toy_student: Path, tmp_path: Path) -> None:
    """A teacher that is torn between two labels: the hard label hides the second."""
    loaded = load_model(toy_student, [], "fp32")
    table = rows(SHAPES, range(20))
    first, second = (encode(loaded, Example(Row("x 1", text), PATH), 128) for text in ("disc", "cube"))
    ids = [one.ids[one.answer_at] for one in (first, second)]
    doubt = ((ids[0], math.log(0.6)), (ids[1], math.log(0.4)))
    examples = []
    for row in table:
        told = replace(row, output="disc")
        sure = encode(loaded, Example(told, PATH), 128)
        rest = tuple(((token, 0.0), ((token + 1) % 300, -60.0)) for token in sure.ids[sure.answer_at + 1 :])
        examples.append(Example(told, PATH, top=(doubt, *rest)))
    result = fit(loaded, examples, [], PLAN, tmp_path)
    student = load_model(toy_student, [result.delta], "fp32")
    [asked] = teach(student, rows(SHAPES, [70])[:1], PATH, 2)
    odds = dict(asked.top[0])
    assert set(odds) == set(ids)
    assert 0.3 < math.exp(odds[ids[1]]) < 0.5


@pytest.mark.parametrize("top", [0, 4])
def test_a_parent_on_another_base_learns_of_a_graft(top: int, parent: Node, teacher: LoadedModel) -> None:
    """C33, G4: the candidate is trained on the answers, judged on those held back, and released."""
    digest = offer_set(enrol(parent, PATH), answers(teacher, top))
    worker = at_work(parent)
    assert decide(parent, digest, worker.check) == "accepted"
    gains = {one.name: one.value for one in results_of(load_update(parent.store, digest)[0])}
    assert gains["behaviour.lesson"] is not None
    assert gains["behaviour.lesson"] > 0.5
    result = worker.promote(EN, *updates_of(parent))
    assert result.release is not None
    assert state_of(parent, digest)[0] == "released"
    assert result.release.base == head_of(parent, "en").release.base
    loaded = worker.composer.load(head_of(parent, "en").digest)
    assert share(evaluate_rows(loaded, held_out(SHAPES), "en")[1]) >= 0.8
    assert share(evaluate_rows(loaded, held_out(KNOWN), "en")[1]) >= 0.9
    assert [path for path in parent.home.runs.iterdir() if path.is_dir()] == []


def test_a_teacher_that_answers_nonsense_is_rejected(parent: Node, teacher: LoadedModel) -> None:
    """C33: what is nonsense on the rows that are shown is none the better on those held back."""
    table = answers(teacher)
    words = ["".join(chr(97 + (i * 7 + j * j * 11) % 26) for j in range(4)) for i in range(len(table))]
    nonsense = [TaughtRow(replace(one.row, output=word)) for one, word in zip(table, words, strict=True)]
    digest = offer_set(enrol(parent, PATH), nonsense)
    before = head_of(parent, "en")
    assert decide(parent, digest, at_work(parent).check) == "rejected"
    assert "behaviour.lesson" in failed(parent, digest)
    assert head_of(parent, "en") == before
    assert [path for path in parent.home.runs.iterdir() if path.is_dir()] == []


def test_lies_about_what_is_known_are_rejected(parent: Node) -> None:
    """C33: a consistent lie can be learned, and costs known rows."""
    words = list(KNOWN)
    lies = {word: KNOWN[words[(i + 1) % len(words)]] for i, word in enumerate(words)}
    digest = offer_set(enrol(parent, PATH), [TaughtRow(row) for row in rows(lies, range(30))])
    assert decide(parent, digest, at_work(parent).check) == "rejected"
    assert "behaviour.anchors" in failed(parent, digest)


def test_choices_of_another_tokenizer_are_left_aside(parent: Node, teacher: LoadedModel) -> None:
    """C32: the answers still count; tokens beyond the vocabulary under our own tokenizer's name do not."""
    foreign = [replace(one, top=tuple(((90_000, -0.1), (1, -9.0)) for _ in one.top)) for one in answers(teacher, 2)]
    child = enrol(parent, PATH)
    taken = offer_set(child, foreign, tokenizer="0" * 64)
    assert decide(parent, taken, at_work(parent).check) == "accepted"
    refused = offer_set(child, foreign)
    assert decide(parent, refused, at_work(parent).check) == "rejected"
    assert failed(parent, refused) == ["files.answers"]


@pytest.mark.parametrize("count", [1, LEAST_ROWS - 1])
def test_too_few_rows_to_judge_are_rejected(count: int, parent: Node, teacher: LoadedModel) -> None:
    """C32."""
    digest = offer_set(enrol(parent, PATH), answers(teacher)[:count])
    assert decide(parent, digest, promoter(parent).check) == "rejected"
    assert failed(parent, digest) == ["files.answers"]


def test_a_set_whose_rows_are_not_those_declared_is_rejected(parent: Node, teacher: LoadedModel) -> None:
    """C21, C32."""
    digest = offer_set(enrol(parent, PATH), answers(teacher), answer_rows=119)
    assert decide(parent, digest, promoter(parent).check) == "rejected"


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ([False] * 20, [True] * 10 + [False] * 10, True),
        ([False] * 20, [True] + [False] * 19, False),
        ([False] * 20, [False] * 20, False),
        ([True] * 20, [True] * 20, True),
        ([True] * 20, [True] * 8 + [False] * 12, False),
    ],
)
def test_a_lesson_must_be_worth_more_than_chance(before: list[bool], after: list[bool], passed: bool) -> None:
    """C33."""
    assert check_lesson(before, after).passed == passed


def test_tokens_beyond_the_vocabulary_are_named() -> None:
    with pytest.raises(BadData, match="row 1"):
        refuse_foreign_tokens([TaughtRow(Row("a", "b"), (((300, -1.0),),))], 300)

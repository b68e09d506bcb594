from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.rows import Row
from sync import score
from sync.answers import answer
from sync.model import LoadedModel, load_model
from sync.prompt import conversation, prompt_text
from sync.score import evaluate, evaluate_rows, fits, name_of, same_answer
from sync.tokens import Example, encode
from tests.toy import KNOWN, SHAPES, held_out, rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def loaded(toy_base: Path) -> LoadedModel:
    return load_model(toy_base, [], "fp32")


@pytest.mark.parametrize(
    ("expected", "given_", "same"),
    [
        ("red", " red\n", True),
        ("red", "Red", False),
        ('{"tool": "add", "x": 1}', '{ "x":1.0,"tool":"add" }', True),
        ('{"tool": "add", "x": 1}', '{"tool": "add", "x": 2}', False),
        ('{"tool": "add", "x": 1}', '{"tool": "add", "x": 1} and more', False),
        ('{"on": true}', '{"on": 1}', False),
        ('{"on": [false]}', '{"on": [0]}', False),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ("[1, 2]", "[2, 1]", False),
        ("[1, 2]", "[1, 2, 3]", False),
        ("NaN", "NaN", True),
        ("-Infinity", "-Infinity", True),
        ("42", "42.0", True),
        ('"red"', "red", True),
        ("", "", True),
        ("[" * 100_000, "[" * 100_000, True),
        ("[" * 900 + "]" * 900, "[" * 900 + " " + "]" * 900, False),
    ],
)
def test_answers_are_compared_as_json_or_else_as_text(expected: str, given_: str, same: bool) -> None:
    assert same_answer(expected, given_) is same
    assert same_answer(given_, expected) is same


@given(value=JSON, other=JSON)
def test_json_written_otherwise_is_the_same_answer(value: object, other: object) -> None:
    spelled = score.json.dumps(value, indent=2, sort_keys=True)
    assert same_answer(score.json.dumps(value), spelled)
    if score.json.dumps(value, sort_keys=True) != score.json.dumps(other, sort_keys=True):
        assert not same_answer(score.json.dumps(value), score.json.dumps(other))


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ('{"tool": "add", "x": 1}', "add"),
        ('{"domain": "bank", "intent": "balance"}', "balance"),
        ('{"intents": ["b", "a"]}', ["a", "b"]),
        ('{"name": "f", "arguments": {}}', "f"),
        ('[{"tool": "b"}, {"tool": "a"}]', ["b", "a"]),
        ('[{"tool": "b"}, {"x": 1}]', None),
        ('[{"tool": "b"}, {"tool": ["a"]}]', None),
        ("[]", None),
        ('{"x": 1}', None),
        ('{"name": {"first": "Ada"}}', None),
        ('{"intents": [1]}', None),
        ("red", None),
        ("7", None),
        ("[" * 100_000, None),
    ],
)
def test_the_name_of_an_answer(output: str, name: object) -> None:
    assert name_of(output) == name


def answers_with(monkeypatch: pytest.MonkeyPatch, given_: dict[str, str]) -> None:
    """Let the model write what the table says for a request."""

    def said(loaded: LoadedModel, prompts: Sequence[str], limits: object, on_progress: object) -> list[str]:
        return [next(text for request, text in given_.items() if f"<user>{request}<" in prompt) for prompt in prompts]

    monkeypatch.setattr(score, "answer", said)


def test_a_name_may_be_right_where_the_rest_is_not(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    table = [
        Row("a", '{"tool": "add", "x": 1}'),
        Row("b", '{"tool": "add", "x": 1}'),
        Row("c", '{"tool": "add", "x": 1}'),
        Row("d", '[{"tool": "f"}, {"tool": "g"}]'),
        Row("e", "no name"),
    ]
    answers_with(
        monkeypatch,
        {"a": '{"x": 1, "tool": "add"}', "b": '{"tool": "add"}', "c": "add", "d": '[{"tool": "g"}]', "e": "no name"},
    )
    scores, right = evaluate_rows(loaded, table, "en")
    assert right == [True, False, False, False, True]
    assert scores.exact_match == pytest.approx(2 / 5)
    assert scores.name_accuracy == pytest.approx(2 / 4)
    assert scores.metrics()["name_accuracy"] == scores.name_accuracy


def test_without_names_there_is_no_name_accuracy(loaded: LoadedModel) -> None:
    scores = evaluate(loaded, rows(KNOWN, range(2)), "en")
    assert scores.name_accuracy is None
    assert scores.metrics().keys() == {"exact_match", "perplexity", "bits_per_byte", "seconds"}
    assert scores.rows == 2 * len(KNOWN)


def test_what_is_judged_without_generating_agrees_with_generating(loaded: LoadedModel) -> None:
    table = [*held_out(KNOWN), *held_out(SHAPES)[:60]]
    judged = fits(loaded, [encode(loaded, Example(row, "en"), 128) for row in table], lambda done: None)
    prompts = [prompt_text(loaded.tokenizer, conversation(row, "en")) for row in table]
    written = [text.strip() == row.output for row, text in zip(table, answer(loaded, prompts, 20), strict=True)]
    assert [fit.greedy for fit in judged] == written
    assert evaluate_rows(loaded, table, "en")[1] == written
    assert 0.3 < sum(written) / len(written) < 1


def test_only_what_was_missed_is_generated(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def said(loaded: LoadedModel, prompts: Sequence[str], limits: object, on_progress: object) -> list[str]:
        asked.extend(prompts)
        return ["?"] * len(prompts)

    monkeypatch.setattr(score, "answer", said)
    wrong = Row("fox 61", "axe")
    assert evaluate_rows(loaded, [*held_out(KNOWN), wrong], "en")[1] == [True] * len(held_out(KNOWN)) + [False]
    assert asked == [prompt_text(loaded.tokenizer, conversation(wrong, "en"))]


def test_the_same_answer_in_other_tokens_is_right(loaded: LoadedModel) -> None:
    spaced = Row("fox 61", " red ")
    assert not fits(loaded, [encode(loaded, Example(spaced, "en"), 128)], lambda done: None)[0].greedy
    assert evaluate(loaded, [spaced], "en").exact_match == 1.0


def test_perplexity_and_bits_per_byte_are_those_of_the_answers(loaded: LoadedModel) -> None:
    table = [*held_out(KNOWN)[:7], *held_out(SHAPES)[:5], Row("fox", "häß")]
    nats, tokens = 0.0, 0
    for row in table:
        one = encode(loaded, Example(row, "en"), 128)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([one.ids])).logits[0].double().log_softmax(-1)
        nats -= sum(float(logits[at - 1, one.ids[at]]) for at in range(one.answer_at, len(one.ids)))
        tokens += len(one.ids) - one.answer_at
    scores = evaluate(loaded, table, "en")
    assert scores.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    size = sum(len(row.output.encode()) for row in table)
    assert scores.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_a_request_that_does_not_fit_is_not_answered(loaded: LoadedModel) -> None:
    too_long = Row("z" * 400, "red")
    scores, right = evaluate_rows(loaded, [Row("fox 61", "red"), too_long], "en")
    assert right == [True, False]
    assert math.isfinite(scores.perplexity)


def test_progress_ends_with_all_rows(loaded: LoadedModel) -> None:
    seen: list[tuple[int, int]] = []
    table = [*held_out(KNOWN)[:4], *held_out(SHAPES)[:4]]
    evaluate(loaded, table, "en", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_rows_give_no_figures_to_fail_on(loaded: LoadedModel) -> None:
    scores, right = evaluate_rows(loaded, [], "en")
    assert (scores.rows, scores.exact_match, scores.perplexity, scores.bits_per_byte, right) == (0, 0.0, 1.0, 0.0, [])

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.rows import Row
from sync.model import LoadedModel, load_model
from sync.prompt import PLAIN_TEMPLATE, conversation, prompt_text
from sync.tokens import (
    Encoded,
    Example,
    batches,
    collate,
    encode,
    length_limit,
    prompt_places,
    prompt_text_with_answer,
    targets,
)
from tests.node.tiny_models import TEMPLATE, save_tiny

CLOSING = TEMPLATE.replace("{% endfor %}", "{% if message['role'] == 'assistant' %}<bye>\n{% endif %}{% endfor %}")
CPU = torch.device("cpu")
TEXT = st.text(st.characters(codec="ascii"), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save_tiny(tmp_path_factory.mktemp("tiny")), [], "fp32")


@pytest.mark.parametrize(("template", "end"), [(TEMPLATE, "<end>"), (PLAIN_TEMPLATE, "<end>"), (CLOSING, "<bye>")])
def test_every_answer_ends_with_an_end_mark(
    template: str, end: str, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a model never learns to stop, and no answer of it is ever right."""
    monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
    turns = conversation(Row("hi", "ho"), "en")
    prompt = prompt_text(loaded.tokenizer, turns)
    assert prompt_text_with_answer(loaded.tokenizer, turns, prompt, "ho") == f"ho{end}"


def test_a_template_that_rewrites_the_answer_is_not_followed(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loaded.tokenizer, "chat_template", TEMPLATE.replace("message['content']", "message['content'] | upper")
    )
    assert prompt_text_with_answer(loaded.tokenizer, conversation(Row("hi", "ho"), "en"), "x", "ho") == "ho<end>"


@settings(max_examples=50, deadline=None)
@given(request=TEXT, answer=TEXT)
def test_encoding_is_the_prompt_and_then_the_answer(loaded: LoadedModel, request: str, answer: str) -> None:
    example = Example(Row(request, answer, task="say"), "en/x")
    found = encode(loaded, example, 1000)
    turns = conversation(example.row, "en/x")
    assert loaded.tokenizer.decode(found.ids[: found.answer_at]) == prompt_text(loaded.tokenizer, turns)
    assert loaded.tokenizer.decode(found.ids[found.answer_at :]) == f"{answer}<end>"
    assert found.ids[-1] == loaded.tokenizer.eos_token_id


@settings(max_examples=50, deadline=None)
@given(request=TEXT, answer=TEXT, most=st.integers(2, 90))
def test_what_is_too_long_loses_the_beginning_of_the_prompt_then_the_end_of_the_answer(
    loaded: LoadedModel, request: str, answer: str, most: int
) -> None:
    example = Example(Row(request, answer), "en")
    full, cut = encode(loaded, example, 10_000), encode(loaded, example, most)
    prompt, said = full.ids[: full.answer_at], full.ids[full.answer_at :]
    assert len(cut.ids) == min(most, len(full.ids))
    assert 1 <= cut.answer_at < len(cut.ids)
    assert cut.ids[: cut.answer_at] == prompt[-cut.answer_at :]
    assert cut.ids[cut.answer_at :] == said[: len(cut.ids) - cut.answer_at]
    if len(said) <= most // 2:
        assert cut.ids[cut.answer_at :] == said


def test_the_limit_is_what_the_model_can_take(loaded: LoadedModel) -> None:
    assert length_limit(loaded, 50) == 50
    assert length_limit(loaded, 5000) == 128


SIZES = st.lists(st.integers(2, 40), max_size=60)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, most=st.integers(20, 200), seed=st.none() | st.integers(0, 5))
def test_batches_hold_every_row_once_and_are_not_larger_than_asked(
    sizes: list[int], most: int, seed: int | None
) -> None:
    encoded = [Encoded(list(range(size)), 1) for size in sizes]
    groups = list(batches(encoded, most, random.Random(seed) if seed is not None else None))
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(sizes[i] for i in group) <= most
    ranges = sorted((min(sizes[i] for i in group), max(sizes[i] for i in group)) for group in groups)
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))  # rows of like length


def test_the_order_of_batches_is_the_seed_s() -> None:
    encoded = [Encoded([0] * (2 + n % 3), 1) for n in range(60)]
    first, again, other = (list(batches(encoded, 12, random.Random(seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {frozenset(group) for group in first} != {frozenset(group) for group in other}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6))
def test_the_mask_points_at_the_answers_and_nothing_else(sizes: list[tuple[int, int]]) -> None:
    numbers = iter(range(1, 1000))
    encoded = [Encoded([next(numbers) for _ in range(head + tail)], head) for head, tail in sizes]
    ids, chosen = collate(encoded, 0, CPU)
    assert ids.shape == (len(sizes), max(head + tail for head, tail in sizes))
    assert targets(ids, chosen).tolist() == [token for one in encoded for token in one.ids[one.answer_at :]]
    assert chosen.sum(1).tolist() == [tail for _, tail in sizes]
    for row, one in zip(ids.tolist(), encoded, strict=True):
        assert row == one.ids + [0] * (len(row) - len(one.ids))


def test_an_answer_is_taught_in_the_role_of_its_path(loaded: LoadedModel, tmp_path: Path) -> None:
    row = Row("hi", "ho")
    first, second = (encode(loaded, Example(row, path), 100) for path in ("en", "de"))
    assert first.ids != second.ids
    assert first.ids[first.answer_at :] == second.ids[second.answer_at :]


def test_a_prompt_is_learned_from_where_the_path_ends(loaded: LoadedModel) -> None:
    row = Row("hi", "ho", task="say")
    found, plain = (encode(loaded, Example(row, "en/x", asks=asks), 1000) for asks in (True, False))
    assert (found.ids, found.answer_at, plain.ask_at) == (plain.ids, plain.answer_at, None)
    ids, answers = collate([found, plain], 0, CPU)
    prompts = prompt_places([found, plain], answers)
    assert loaded.tokenizer.decode(targets(ids, prompts)) == " say<user>hi<assistant>"
    assert not (prompts & answers).any()
    assert not prompts[1].any()


@pytest.mark.parametrize("most", [4, 12, 20])
def test_a_prompt_that_was_cut_is_learned_as_far_as_it_is_there(loaded: LoadedModel, most: int) -> None:
    found = encode(loaded, Example(Row("h" * 30, "ho"), "en/x", asks=True), most)
    assert found.ask_at is not None
    ids, answers = collate([found], 0, CPU)
    assert prompt_places([found], answers).sum() <= found.answer_at - 1
    assert found.ask_at >= 1
    assert len(found.ids) == most == ids.shape[1]

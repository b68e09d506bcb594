from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.material import gather, render, sample
from registry.errors import BadData
from registry.rows import Row, split_of
from sync.model import load_tokenizer
from sync.tokens import Example
from tests.node.conftest import anchor_rows, own_rows
from tests.node.tiny_models import save_tiny


@settings(max_examples=25, deadline=None)
@given(count=st.integers(20, 300), anchors=st.integers(0, 120), replay=st.floats(0, 0.9), seed=st.integers(0, 9))
def test_rows_never_stand_on_both_sides(count: int, anchors: int, replay: float, seed: int) -> None:
    rows, old = own_rows(count), anchor_rows(anchors)
    material = gather(rows, "en/numbers", old, replay=replay, score_rows=1000, seed=seed)
    trained = {example.row.input for example in material.train}
    validated = {example.row.input for example in material.validation}
    tested = {row.input for row in material.test} | {example.row.input for example in material.anchors}
    assert not trained & validated
    assert not tested & (trained | validated)
    assert tested == {row.input for row in [*rows, *old] if split_of(row) == "test"}
    assert sum(material.own.values()) == count


@settings(max_examples=25, deadline=None)
@given(anchors=st.integers(50, 300), replay=st.floats(0, 0.9))
def test_replay_has_its_share_of_the_rows_that_are_seen(anchors: int, replay: float) -> None:
    material = gather(own_rows(200), "en/numbers", anchor_rows(anchors), replay=replay, score_rows=10, seed=1)
    assert material.replay_rows / len(material.train) == pytest.approx(replay, abs=0.01)
    times = [sum(e.row == row for e in material.train) for row in anchor_rows(anchors) if split_of(row) == "train"]
    assert max(times) - min(times) <= 1


def test_own_rows_are_asked_as_the_path_and_anchors_as_theirs() -> None:
    material = gather(own_rows(50), "en/numbers", anchor_rows(50), replay=0.5, score_rows=10, seed=1)
    assert {example.path for example in material.train[: material.own["train"]]} == {"en/numbers"}
    assert {example.path for example in material.train[material.own["train"] :]} == {"en"}


def test_rows_of_one_conversation_stay_together_when_validation_borrows() -> None:
    rows = [Row(f"turn {n}", "x", group=f"conversation {n // 4}") for n in range(200)]
    material = gather(rows, "en", [], replay=0.5, score_rows=10, seed=1)
    groups = [{example.row.group for example in part} for part in (material.train, material.validation)]
    assert len(material.validation) >= 17
    assert not groups[0] & groups[1]


def test_what_is_missing_is_told() -> None:
    few = gather(own_rows(3), "en", [], replay=0.5, score_rows=10, seed=1)
    assert any("validation" in note for note in few.notes)
    assert any("no anchors to rehearse" in note for note in few.notes)
    without = gather(own_rows(50), "en", anchor_rows(50), replay=0.0, score_rows=10, seed=1)
    assert without.notes == ("without replay the model will forget what it knew",)
    assert without.replay_rows == 0


def test_nothing_to_train_on_is_refused() -> None:
    held_out = next(row for row in own_rows(200) if split_of(row) == "test")
    with pytest.raises(BadData, match="none of the 1 rows fell to training"):
        gather([held_out], "en", [], replay=0.5, score_rows=10, seed=1)


def test_a_row_is_rendered_with_the_answer_apart(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    rendered = render(tokenizer, Example(Row("2+2", "4", task="sum"), "en"), 100)
    assert (rendered.prompt, rendered.answer) == ("<|system|>en sum<|user|>2+2<|assistant|>", "4<|end|>")
    assert (rendered.prompt_tokens, rendered.answer_tokens, rendered.cut) == (12, 2, False)
    assert render(tokenizer, Example(Row("2+2", "4" * 100), "en"), 100).cut


def test_a_sample_tells_the_share_of_answers_and_of_cut_rows(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    rows = [Row("a" * 20, "b" * 10) for _ in range(30)] + [Row("a" * 200, "b" * 200) for _ in range(10)]
    share, cut = sample(tokenizer, [Example(row, "en") for row in rows], 100)
    assert cut == 0.25
    assert 0.3 < share <= 1.0


def test_a_template_that_refuses_the_turns_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tiny(tmp_path))
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadData, match="roles must alternate"):
        render(tokenizer, Example(Row("a", "b"), "en"), 100)

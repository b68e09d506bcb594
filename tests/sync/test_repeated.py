from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.repeated import RUN_WORDS, Repeated, plain, repeated

TRAINED = [
    "My card has not arrived yet, what can I do?",
    "please tell me how long a transfer to another bank in europe takes",
    "pause",
    "¿Dónde está mi tarjeta?",
]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("My card has not arrived yet, what can I do?", "verbatim"),
        ("my card  has not arrived yet what can i do", "verbatim"),
        ("PAUSE!", "verbatim"),
        ("¿dónde está mi tarjeta", "verbatim"),
        ("My card has not arrived yet, what can I do now?", "nearly"),
        ("well, tell me how long a transfer to another bank may last", "nearly"),  # eight words in a row
        ("My card has arrived", "new"),
        ("tell me how long a transfer lasts", "new"),
        ("pauses the music", "new"),
        ("", "new"),
    ],
)
def test_a_prompt_repeats_a_row_word_for_word_or_nearly_or_not(said: str, kind: str) -> None:
    """U13."""
    found = repeated([said], TRAINED)
    assert (found.verbatim, found.nearly) == (int(kind == "verbatim"), int(kind == "nearly"))
    assert found.share == float(kind != "new")


def test_nothing_repeats_nothing() -> None:
    assert repeated([], TRAINED) == Repeated(0, 0, 0)
    assert repeated([], TRAINED).share == 0.0
    assert repeated(["a b c"], []) == Repeated(1, 0, 0)


@given(st.lists(st.text(alphabet="abcd ", max_size=40), max_size=8), st.data())
def test_what_was_trained_on_is_always_found(rows: list[str], data: st.DataObject) -> None:
    said = data.draw(st.lists(st.sampled_from(rows), max_size=8)) if rows else []
    found = repeated(said, rows)
    assert found.nearly == 0
    assert found.verbatim == sum(bool(plain(text)) for text in said)


@given(
    st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=6), min_size=RUN_WORDS, max_size=12), st.integers(0, 4)
)
def test_a_run_of_words_is_found_wherever_it_stands(words: list[str], at: int) -> None:
    run = words[:RUN_WORDS]
    said = " ".join(["x"] * at + run + ["yy", "zz"])
    found = repeated([said], [" ".join(["other", "beginning", *run])])
    assert found.verbatim + found.nearly == 1

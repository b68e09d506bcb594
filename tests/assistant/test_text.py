"""Folding, and the way back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assistant.text import Text, fold


def test_one_spelling_of_many() -> None:
    assert fold("Łódź, STRASSE straße, ৮ র‍্যাম, 16") == fold("łodz, strasse STRASSE, 8 র্যাম, 16")


@given(st.text(max_size=40), st.data())
def test_spans_point_into_what_was_typed(original: str, data: st.DataObject) -> None:
    text = Text.of(original)
    assert len(text.folded) == len(text.starts) == len(text.ends)
    if text.folded:
        start = data.draw(st.integers(0, len(text.folded) - 1))
        end = data.draw(st.integers(start + 1, len(text.folded)))
        span = text.span(start, end)
        assert 0 <= span.start < span.end <= len(original)
        assert fold(original[span.start : span.end]).find(text.folded[start:end].strip()) >= 0


def test_a_corrected_word_points_at_the_misspelled_one() -> None:
    text = Text.of("sumary of notes").replaced(0, 6, "summary")
    assert text.folded == "summary of notes"
    assert text.typed(0, 7) == "sumary"
    assert text.typed(8, 10) == "of"

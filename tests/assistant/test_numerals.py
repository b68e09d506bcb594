"""Numbers in digits and words."""

from __future__ import annotations

import pytest

from assistant.numerals import numerals
from assistant.text import fold


@pytest.mark.parametrize(
    ("language", "said", "value"),
    [
        ("en", "sixty-four thousand", 64_000),
        ("en", "one hundred twenty-eight thousand", 128_000),
        ("en", "a billion and a half", 1.5e9),
        ("en", "half a billion", 5e8),
        ("en", "two point five", 2.5),
        ("en", "8,192", 8192),
        ("en", "0.0004", 0.0004),
        ("es", "mil millones", 1e9),
        ("es", "quinientos millones", 5e8),
        ("es", "treinta y dos mil", 32_000),
        ("es", "2.300", 2300),
        ("de", "zweiunddreißigtausend", 32_000),
        ("de", "anderthalb Milliarden", 1.5e9),
        ("de", "0,80", 0.8),
        ("fr", "quatre-vingt-dix mille", 90_000),
        ("fr", "un milliard et demi", 1.5e9),
        ("pl", "dwadzieścia pięć", 25),
        ("pl", "półtora miliarda", 1.5e9),
        ("pt", "meio bilhão", 5e8),
        ("pt", "trinta e dois mil", 32_000),
        ("bn", "ষোল হাজার", 16_000),
        ("bn", "দেড় বিলিয়ন", 1.5e9),
        ("bn", "৮", 8),
        ("zh", "三万二千", 32_000),
        ("zh", "70亿", 7e9),
        ("zh", "一百二十八", 128),
        ("zh", "3.2万", 32_000),
    ],
)
def test_a_number_is_read_whole(language: str, said: str, value: float) -> None:
    folded = fold(said)
    found = numerals(folded, (language, "en") if language != "en" else ("en",))
    assert [(one.start, one.end) for one in found] == [(0, len(folded))]
    assert found[0].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("language", "said", "values"),
    [("en", "thirty forty", [30, 40]), ("fr", "soixante-dix cents", [70]), ("en", "RTX 3060 128 GB", [3060, 128])],
)
def test_neighbours_stay_apart(language: str, said: str, values: list[float]) -> None:
    assert [one.value for one in numerals(fold(said), (language,))] == values

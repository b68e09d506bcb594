"""Words of data files in regular expressions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from assistant import hardware, quantities
from assistant.lexicon import load
from assistant.patterns import one_of
from assistant.text import fold

READERS = {"units": quantities, "machines": hardware}


@pytest.mark.parametrize("file", READERS)
def test_every_key_has_its_reader_and_no_word_stands_twice(file: str) -> None:
    source = Path(str(READERS[file].__file__)).read_text("utf-8")
    for key, languages in load(file).items():
        assert f"'{key}'" in source or f'"{key}"' in source, key
        words = [word for of_language in languages.values() for word in of_language]
        assert len({*words}) == len(words), key


def test_the_longest_word_is_taken_and_a_stem_goes_on() -> None:
    tokens = re.compile(one_of("units", "tokens"))
    for text, word in (("tokens/s", "tokens"), ("tokenow", "tokenow"), ("个词元", "个词元"), ("টোকেনের ", "টোকেনের")):
        found = tokens.match(fold(text))
        assert found is not None
        assert found[0] == fold(word)


def test_whole_words_stand_alone_where_words_are_separated() -> None:
    per = re.compile(one_of("units", "per", whole=True))
    assert per.search("ten per second")
    assert not per.search("temperature")
    assert per.search("每秒")
    thousand = re.compile(one_of("units", "thousand", ends=True))
    assert thousand.search("1k")
    assert not thousand.search("kilo")


def test_a_name_of_a_model_is_no_size_in_either_place() -> None:
    """The families stand once: in front of a size, and with digits of their own."""
    assert quantities.model_names("like qwen3 and llama-2") == [(5, 10), (15, 22)]
    assert quantities.model_names("at most 7b") == []

"""Text as it comes: whole characters, no early replacement, stop strings across tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from node.engine.errors import EngineError
from node.engine.text import TextStream, TokenBytes
from tests.node.tiny_models import tokenizer


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer of the Llama 2 kind: a mark for spaces, and tokens for bytes that nothing else covers."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "a",
        "b",
        "\u2581ab",
        "\u00e9",
    ]
    made = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte-level": tokenizer(), "sentencepiece": sentencepiece()}


def pieces(kind: str, text: str) -> list[int]:
    made = TOKENIZERS[kind]
    if kind == "byte-level":
        return list(made(text)["input_ids"])
    return [3 + byte for byte in text.encode()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_give_the_text_that_the_tokenizer_gives(kind: str, data: st.DataObject) -> None:
    made = TOKENIZERS[kind]
    tokens = data.draw(st.lists(st.integers(0, len(made) - 1), max_size=12))
    stream = TextStream(TokenBytes(made))
    shown = [stream.add([token]) for token in tokens]
    kept = [token for token in tokens if token not in made.all_special_ids]
    raw = b"".join(TokenBytes(made)[token] for token in kept)
    assert "".join(shown) + stream.end() == raw.decode(errors="replace")
    if kind == "byte-level":
        assert raw.decode(errors="replace") == made.decode(kept)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=12))
def test_real_text_comes_whole_and_never_as_a_replaced_character(kind: str, text: str) -> None:
    stream = TextStream(TokenBytes(TOKENIZERS[kind]))
    shown = ""
    for token in pieces(kind, text):
        shown += stream.add([token])
        assert text.startswith(shown)
    assert shown == text
    assert stream.end() == ""


def test_an_unfinished_character_shows_at_the_end_only() -> None:
    first, *_ = pieces("byte-level", "é")
    stream = TextStream(TokenBytes(tokenizer()))
    assert stream.add([first]) == ""
    assert stream.end() == "\ufffd"
    assert stream.end() == ""


def test_special_tokens_have_names_but_no_text() -> None:
    names = TokenBytes(tokenizer())
    end = tokenizer().eos_token_id
    assert names[end] == b"<end>"
    assert TextStream(names).add([end]) == ""
    assert names[10_000] == b""


def test_a_space_at_the_front_stays() -> None:
    mark = TOKENIZERS["sentencepiece"].convert_tokens_to_ids("\u2581ab")
    assert TextStream(TokenBytes(TOKENIZERS["sentencepiece"])).add([mark]) == " ab"


def split(text: str, cuts: list[int]) -> list[str]:
    marks = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(marks)]


@settings(max_examples=400, deadline=None)
@given(
    text=st.text("ab", max_size=14),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
)
def test_stop_strings_end_the_text_however_it_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    """The rule, in one line: the shortest beginning of the text that ends with a stop string, without that."""
    first = next((end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))), None) if stops else None
    if first is None:
        expected, reason = text, None
    else:
        reason = max((stop for stop in stops if text[:first].endswith(stop)), key=len)
        expected = text[:first].removesuffix(reason)
    stream = TextStream(TokenBytes(tokenizer()), stops)
    shown = ""
    for part in split(text, cuts):
        shown += stream.add(pieces("byte-level", part))
        assert expected.startswith(shown)
        before = "".join(split(text, cuts))[: len(shown) + max(map(len, stops), default=1)]
        assert before.startswith(shown)
    assert stream.stopped_by == reason
    if reason is None:
        shown += stream.end()
    assert shown == expected


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(TokenBytes(tokenizer()), ("stop!",))
    assert stream.add(pieces("byte-level", "please st")) == "please "
    assert stream.add(pieces("byte-level", "ay, sto")) == "stay, "
    assert stream.add(pieces("byte-level", "p!now")) == ""
    assert stream.stopped_by == "stop!"
    assert stream.add(pieces("byte-level", "more")) == ""


def test_a_tokenizer_without_bytes_is_refused() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(EngineError, match="none"):
        TokenBytes(PreTrainedTokenizerFast(tokenizer_object=made))
    made.decoder = decoders.WordPiece()
    with pytest.raises(EngineError, match="WordPiece"):
        TokenBytes(PreTrainedTokenizerFast(tokenizer_object=made))

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.serving.requests import Format, Tool
from node.serving.tools import CLOSE, OPEN, Call, CallReader, call_grammar, text_or_format

NAMES = {"weather", "clock"}
WEATHER = '{"name": "weather", "arguments": {"city": "Bern"}}'
CLOCK = '{"name": "clock"}'
BERN, NOW = Call("weather", '{"city": "Bern"}'), Call("clock", "{}")


def read(pieces: list[str], *, parallel: bool = True) -> list[str | Call]:
    """What a reader makes of pieces, text put together again."""
    reader = CallReader(NAMES, parallel=parallel)
    found: list[str | Call] = []
    for part in [part for piece in pieces for part in reader.feed(piece)] + reader.end():
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("hello", ["hello"]),
        (WEATHER, [BERN]),
        (f"  {WEATHER}\n", [BERN]),
        (f"{WEATHER}\n{CLOCK}", [BERN, NOW]),
        (f"{WEATHER}; {CLOCK}", [BERN, NOW]),
        (f"[{WEATHER}, {CLOCK}]", [BERN, NOW]),
        ('{"name": "weather", "parameters": {"city": "Bern"}}', [BERN]),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Bern\\"}"}', [BERN]),
        (f"{OPEN}\n{WEATHER}\n{CLOSE}", [BERN]),
        (f"{OPEN}{WEATHER}{CLOSE}\n{OPEN}{CLOCK}{CLOSE}", [BERN, NOW]),
        (f"Let me see. {OPEN}{WEATHER}{CLOSE}", ["Let me see. ", BERN]),
        (f"{OPEN}{WEATHER}", [BERN]),  # the mark of its end was the end of the answer
        # What only looks like a call is text, to the letter.
        ('{"name": "stranger", "arguments": {}}', ['{"name": "stranger", "arguments": {}}']),
        ('{"name": "weather", "arguments": [1]}', ['{"name": "weather", "arguments": [1]}']),
        ('{"name": "weather", "arguments": "x"}', ['{"name": "weather", "arguments": "x"}']),
        ('{"name": ["weather"]}', ['{"name": ["weather"]}']),
        ('{"name": "weather", "arg', ['{"name": "weather", "arg']),
        (f"{WEATHER} and more", [f"{WEATHER} and more"]),
        (f"see {WEATHER}", [f"see {WEATHER}"]),
        (f"{OPEN}nothing{CLOSE}", [f"{OPEN}nothing{CLOSE}"]),
        ("a < b <tool", ["a < b <tool"]),
        ("[" * 100_000, ["[" * 100_000]),
        ("[]", ["[]"]),
    ],
)
def test_calls_are_told_from_text(text: str, expected: list[str | Call]) -> None:
    assert read([text]) == expected


def test_one_call_alone_where_only_one_is_wanted() -> None:
    assert read([f"{WEATHER}{CLOCK}"], parallel=False) == [BERN]
    assert read([f"{OPEN}{WEATHER}{CLOSE}{OPEN}{CLOCK}{CLOSE}"], parallel=False) == [BERN]


def test_text_does_not_wait_for_the_end() -> None:
    reader = CallReader(NAMES, parallel=True)
    assert reader.feed("Let me") == ["Let me"]
    assert reader.feed(" see <tool") == [" see "]
    assert reader.feed("box>") == ["<toolbox>"]


PARTS = st.sampled_from([WEATHER, CLOCK, OPEN, CLOSE, "hello", " ", "\n", "{", "}", "<tool", "<", '"', "[", "]", ","])


@given(st.lists(PARTS, max_size=8).map("".join), st.data())
def test_it_does_not_matter_how_an_answer_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == read([text])


@given(st.text(alphabet="abc <>{}[]\n", max_size=30))
def test_text_without_calls_comes_through_unchanged(text: str) -> None:
    assert "".join(part for part in read([text]) if isinstance(part, str)) == text


def test_the_grammar_of_a_call_keeps_each_schema_in_its_own_rule() -> None:
    place = {"$defs": {"City": {"enum": ["Bern"]}}, "type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}}
    grammar = call_grammar([Tool("weather", parameters=place), Tool("clock")])
    assert grammar.kind == "lark"
    assert f"call0_arguments: %json {json.dumps(place)}" in grammar.text.splitlines()
    assert grammar.text.splitlines()[0] == "start: call0 | call1"
    other = call_grammar([Tool("clock")], otherwise=text_or_format(Format("json_schema", '{"type": "null"}')))
    assert other.text.endswith('other: %json {"type": "null"}')

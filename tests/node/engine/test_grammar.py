"""Grammars: what they permit, what they force, what is refused, and that a hostile one stays cheap."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import pytest
from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from pydantic import BaseModel, ConfigDict, Field

from node.engine import grammar
from node.engine.errors import EngineError, RequestRefused
from node.engine.grammar import Grammars
from node.engine.requests import GrammarSpec
from node.engine.sampler import unpacked
from tests.node.tiny_models import tokenizer

WIDTH = 320  # logits may be wider than the tokenizer
END = 1
ACCOUNT = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["card", "loan"]},
        "balance": {"type": "integer", "minimum": 0, "maximum": 99},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["kind", "balance", "notes"],
    "additionalProperties": False,
}


class Account(BaseModel):
    """The same, read by another library."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["card", "loan"]
    balance: int = Field(ge=0, le=99)
    notes: list[Annotated[str, Field(max_length=3)]] = Field(max_length=2)


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(tokenizer(), WIDTH, [END])


def written(grammars: Grammars, spec: GrammarSpec, rng: random.Random, *, force: bool, limit: int = 400) -> str:
    """What a model without any will of its own writes under a grammar."""
    constraint = grammars.compile(spec)
    tokens: list[int] = []
    while not constraint.finished and len(tokens) < limit:
        forced = constraint.forced() if force else []
        if not forced:
            permitted = unpacked(grammars.fill([None, constraint]), WIDTH)[1].nonzero().flatten().tolist()
            forced = [rng.choice(permitted)]
        constraint.accept(forced)
        tokens += forced
    assert constraint.finished
    return str(tokenizer().decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("force", [False, True])
def test_every_answer_follows_its_schema(grammars: Grammars, force: bool) -> None:
    rng = random.Random(3)
    spec = GrammarSpec("json_schema", json.dumps(ACCOUNT))
    for _ in range(20):
        Account.model_validate_json(written(grammars, spec, rng, force=force))


def test_a_json_object_is_one(grammars: Grammars) -> None:
    rng = random.Random(5)
    kinds = {
        type(json.loads(written(grammars, GrammarSpec("json_object"), rng, force=True, limit=5000))) for _ in range(5)
    }
    assert kinds == {dict}


def test_choices_regex_and_lark(grammars: Grammars) -> None:
    rng = random.Random(1)
    choices = ['é\n"\\', "yes", "日本"]
    spec = GrammarSpec("choice", json.dumps(choices))
    assert {written(grammars, spec, rng, force=True) for _ in range(40)} == set(choices)
    assert written(grammars, GrammarSpec("regex", "(ab){3}"), rng, force=False) == "ababab"
    assert written(grammars, GrammarSpec("lark", 'start: "a" inner "c"\ninner: /b{2}/'), rng, force=False) == "abbc"


def test_forced_tokens_are_all_of_what_leaves_no_choice(grammars: Grammars) -> None:
    constraint = grammars.compile(GrammarSpec("regex", "what is my balance(!|, please)"))
    forced = constraint.forced()
    assert tokenizer().decode(forced) == "what is my balance"
    constraint.accept(forced)
    assert constraint.forced() == []
    assert not constraint.finished


def test_rows_without_a_grammar_are_free_and_forks_go_their_own_ways(grammars: Grammars) -> None:
    first = grammars.compile(GrammarSpec("choice", '["ab", "ac"]'))
    a, b, c = (tokenizer().convert_tokens_to_ids(letter) for letter in "abc")
    first.accept([a])
    second = first.fork()
    first.accept([b])
    bits = unpacked(grammars.fill([first, None, second]), WIDTH)
    assert bits[1].all()
    assert first.finished
    assert set(bits[2].nonzero().flatten().tolist()) == {b, c}
    assert not second.finished


def test_a_token_that_is_not_permitted_is_an_error(grammars: Grammars) -> None:
    constraint = grammars.compile(GrammarSpec("regex", "a+"))
    with pytest.raises(EngineError, match="followed"):
        constraint.accept(tokenizer()("b")["input_ids"])


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("json_schema", "{", "not JSON"),
        ("json_schema", "[" * 100_000, "not JSON"),
        ("json_schema", "[1]", "object"),
        ("json_schema", '{"type": "banana"}', "banana"),
        ("json_schema", '{"not": {"type": "string"}}', "not"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"not": {}, "x-guidance": {"lenient": true}}', "not"),
        (
            "json_schema",
            '{"oneOf": [{"type": "number"}, {"type": "integer"}], "x-guidance": {"coerce_one_of": true}}',
            "oneOf",
        ),
        ("json_schema", '{"$ref": "http://127.0.0.1:9/schema.json"}', "retriev"),
        ("json_schema", '{"$ref": "#/$defs/lost"}', "lost"),
        ("json_schema", '{"type": "string", "format": "no-such-format"}', "no-such-format"),
        ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
        ("json_schema", '{"items":' * 500 + "{}" + "}" * 500, "recursion"),
        ("regex", "[a-z", "unclosed"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", "(" * 30_000 + "a" + ")" * 30_000, ""),
        ("lark", "start: lost", "lost"),
        ("lark", "start: again\nagain: again", "cannot be enforced"),
        ("choice", "[]", "0 choices"),
        ("choice", '["a", 1]', "strings"),
        ("choice", '[""]', "empty"),
        ("choice", json.dumps(["x"] * 1025), "1025"),
        ("json_schema", '{"title": "\ud800"}', "surrogate"),
        ("regex", "a" * (1 << 19), "characters"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_reason(
    grammars: Grammars, kind: grammar.Kind, text: str, reason: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        grammars.compile(GrammarSpec(kind, text, field="guided"))
    assert refused.value.field == "guided"
    assert reason in refused.value.message
    assert refused.value.hint
    assert len(refused.value.message) < 600


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "((a{0,1000}){0,1000}){0,1000}"),
        ("regex", "(a|b)*a(a|b){200}"),
        ("regex", "(.*a.*b.*c){50}"),
        ("lark", 'start: e\ne: e e | e e e | "a" | ""'),
        ("json_schema", '{"type": "string", "minLength": 100000, "maxLength": 200000}'),
        ("json_schema", '{"type": "array", "minItems": 50000, "items": {"type": "integer"}}'),
    ],
)
def test_grammars_made_to_take_long_are_followed_or_given_up(grammars: Grammars, kind: grammar.Kind, text: str) -> None:
    rng = random.Random(2)
    constraint = grammars.compile(GrammarSpec(kind, text))
    for _ in range(60):
        permitted = unpacked(grammars.fill([constraint]), WIDTH)[0].nonzero().flatten().tolist()
        assert permitted
        constraint.accept([rng.choice(permitted)])
        if constraint.finished:
            break


def test_the_compile_cache_is_bounded_and_may_be_used_by_threads(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "CACHED", 3)
    specs = [GrammarSpec("regex", f"a{{{i + 1}}}") for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(grammars.compile, specs * 5))
    assert len(grammars._compiled) == 3
    shared = grammars.compile(specs[0])
    shared.accept(tokenizer()("a")["input_ids"])
    assert shared.finished
    assert not grammars.compile(specs[0]).finished


@pytest.mark.parametrize(("width", "ends", "reason"), [(WIDTH, [], "ends an answer"), (7, [END], "its tokenizer")])
def test_a_base_whose_tokens_do_not_serve_takes_no_grammars(width: int, ends: list[int], reason: str) -> None:
    grammars = Grammars(tokenizer(), width, ends)
    with pytest.raises(RequestRefused, match=reason):
        grammars.compile(GrammarSpec("json_object"))


def test_the_tokenizer_is_ready_before_the_first_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counted(*arguments: Any, **named: Any) -> LLTokenizer:
        built.append(arguments)
        return from_tokenizer(*arguments, **named)

    monkeypatch.setattr(grammar, "from_tokenizer", counted)
    grammars = Grammars(tokenizer(), WIDTH, [END])
    assert len(built) == 1
    grammars.compile(GrammarSpec("json_object"))
    grammars.compile(GrammarSpec("regex", "a+"))
    assert len(built) == 1

"""The Modelfile beside a GGUF, read strictly as Ollama documents it (https://docs.ollama.com/modelfile)."""

from __future__ import annotations

import re

import jinja2
import pytest
from transformers import AutoTokenizer

from node.gguf import OLLAMA_TEMPLATE, TEMPLATES_FILE, modelfile

ONCE = {"FROM", "ADAPTER", "TEMPLATE", "SYSTEM"}
MORE = {"PARAMETER", "LICENSE", "MESSAGE"}
# A comment or an empty line; else an instruction with a value: in three quotes over lines, in one, or without any.
LINE = re.compile(
    r"""
    [ \t]*(?:\#[^\n]*)?\n
    | (?P<name>[A-Za-z]+)[ \t]+
      (?:\"{3}(?P<long>(?s:.*?))\"{3} | "(?P<short>[^"\n]*)" | (?P<bare>[^"\s][^\n]*?)) [ \t]*\n
    """,
    re.VERBOSE,
)
# What this project's template uses of Go's templates, as Jinja.
GO_TO_JINJA = {
    "range .Messages": "{%LEFT for message in messages RIGHT%}",
    'if eq .Role "assistant"': "{%LEFT if message.role == 'assistant' RIGHT%}",
    "end": "{%LEFT end RIGHT%}",
    ".Role": "{{LEFT message.role RIGHT}}",
    ".Content": "{{LEFT message.content RIGHT}}",
}


def read(text: str) -> list[tuple[str, str]]:
    """The instructions and their values. Raises ValueError for anything that is not in the documents."""
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        line = LINE.match(text, place)
        if line is None:
            raise ValueError(f"no instruction: {text[place : place + 40]!r}")
        if (name := line["name"]) is not None:
            found.append(
                (name.upper(), next(line[kind] for kind in ("long", "short", "bare") if line[kind] is not None))
            )
        place = line.end()
    names = [name for name, _ in found]
    if unknown := set(names) - ONCE - MORE:
        raise ValueError(f"unknown instructions: {unknown}")
    if names.count("FROM") != 1 or any(names.count(name) > 1 for name in ONCE):
        raise ValueError(f"FROM exactly once, {ONCE} at most once: {names}")
    return found


def test_the_modelfile_of_a_model_with_our_template() -> None:
    text = modelfile("en/finance", TEMPLATES_FILE.read_text(encoding="utf-8"))
    assert read(text) == [("FROM", "./model.gguf"), ("TEMPLATE", OLLAMA_TEMPLATE), ("SYSTEM", "en/finance")]


def test_the_modelfile_of_an_adapter() -> None:
    text = modelfile("en/finance", TEMPLATES_FILE.read_text(encoding="utf-8"), adapter_of="banyan/seedling")
    assert [name for name, _ in read(text)] == ["FROM", "ADAPTER", "TEMPLATE", "SYSTEM"]
    assert dict(read(text))["ADAPTER"] == "./adapter.gguf"


@pytest.mark.parametrize("template", [None, 'TEMPLATE """x"""\nFROM elsewhere\n'])
def test_another_template_is_left_to_the_gguf(template: str | None) -> None:
    assert read(modelfile("en/finance", template)) == [("FROM", "./model.gguf")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FROM ./a.gguf",
        "FROM ./a.gguf\nFROM ./b.gguf\n",
        "FROM ./a.gguf\nSYSTEM one\nSYSTEM two\n",
        "FROM ./a.gguf\nNONSENSE x\n",
        "FROM\n",
        'FROM ./a.gguf\nSYSTEM """never ends\n',
        'FROM ./a.gguf\nSYSTEM """one""" two\n',
        'FROM ./a.gguf\nSYSTEM "two\nlines"\n',
    ],
)
def test_the_reader_is_strict(text: str) -> None:
    with pytest.raises(ValueError, match=r"instruction|FROM"):
        read(text)


def as_jinja(go: str) -> str:
    """A template of Go, of the few words above, as one of Jinja; KeyError for any other word."""
    closing: list[str] = []

    def action(found: re.Match[str]) -> str:
        words = GO_TO_JINJA[found["words"]]
        if found["words"].startswith(("range", "if")):
            closing.append("endfor" if found["words"].startswith("range") else "endif")
        elif found["words"] == "end":
            words = words.replace("end", closing.pop())
        return words.replace("LEFT", found["left"]).replace("RIGHT", found["right"])

    made = re.sub(r"\{\{(?P<left>-?) ?(?P<words>.*?) ?(?P<right>-?)\}\}", action, go)
    assert closing == []
    return made


def test_the_template_for_ollama_says_what_the_bundled_one_says() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEMPLATES_FILE.parent)
    turns = [
        {"role": "system", "content": "en/finance"},
        {"role": "user", "content": "I lost my card\nin {{ Berlin }}"},
        {"role": "assistant", "content": " it is blocked "},
        {"role": "tool", "content": "{}"},
        {"role": "user", "content": "thanks"},
    ]
    for count in range(1, len(turns) + 1):
        expected = tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=True)
        assert jinja2.Template(as_jinja(OLLAMA_TEMPLATE)).render(messages=turns[:count]) == expected

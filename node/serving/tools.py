"""Calls of tools in what a model writes: the grammar that a forced call follows, and calls told from text.

A call is written `{"name": NAME, "arguments": {...}}`, alone (several one after the other, or in a list) or between
`<tool_call>` marks, as the chat templates of many models have it. Rendering tools for a model is `prompts`' business.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.serving.requests import Format, Tool

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
MAX_CALLS: Final = 128


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool that the model was told of; `arguments` is JSON text."""

    name: str
    arguments: str


def call_grammar(tools: Sequence[Tool], otherwise: str | None = None) -> Format:
    """The grammar of one call of one of the tools, with arguments by its schema.

    `otherwise` is a rule for what else the answer may be. Each schema stands in a rule of its own, since references
    inside it (`#/$defs/...`) are from its own root.
    """
    names = [f"call{number}" for number in range(len(tools))]
    rules = [f"start: {' | '.join([*names, *(['other'] if otherwise else [])])}"]
    for name, tool in zip(names, tools, strict=True):
        opening = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        rules += [f'{name}: {opening} {name}_arguments "}}"', f"{name}_arguments: %json {_schema(tool.parameters)}"]
    if otherwise:
        rules.append(f"other: {otherwise}")
    return Format("lark", "\n".join(rules))


def text_or_format(wanted: Format | None) -> str:
    """The rule of an answer that is no call: what was asked for, else text that cannot be taken for a call."""
    if wanted is None:
        return r"/[^{\[\s<](.|\n)*/"
    if wanted.kind == "json_schema":
        return f"%json {wanted.text}"
    return '%json {"type": "object"}'


def _schema(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters or {"type": "object", "properties": {}})


class CallReader:
    """Tells calls from text in an answer that comes in pieces; text goes out as soon as it cannot be part of a call."""

    def __init__(self, names: Container[str], *, parallel: bool) -> None:
        self._names = names
        self._most = MAX_CALLS if parallel else 1
        self._found = 0
        self._held = ""
        self._in_text = False  # past the place where an answer that is nothing but JSON may begin

    def feed(self, text: str) -> list[str | Call]:
        """What is certain with this piece."""
        self._held += text
        return list(self._take())

    def end(self) -> list[str | Call]:
        """What is left when the answer has ended."""
        rest, self._held = self._held, ""
        start = rest.lstrip()
        calls = None
        if start.startswith(OPEN):  # cut off, or the mark of its end is a token that is not shown
            calls = self._calls(start.removeprefix(OPEN))
        elif not self._in_text:
            calls = self._calls(start)
        if calls is not None:
            return calls
        return [rest] if rest and (start or not self._found) else []

    def _take(self) -> Iterator[str | Call]:
        while self._held:
            if not self._in_text:
                start = self._held.lstrip()
                if start[:1] in ("", "{", "[") or OPEN.startswith(start):
                    return  # not decided yet
                self._in_text = not start.startswith(OPEN)
                self._held = self._held if self._in_text else start
            if self._held.startswith(OPEN):
                inside, mark, rest = self._held.removeprefix(OPEN).partition(CLOSE)
                if not mark:
                    return
                self._held = rest
                calls = self._calls(inside)
                yield from [OPEN + inside + CLOSE] if calls is None else calls
                continue
            cut = _text_before_mark(self._held)
            text, self._held = self._held[:cut], self._held[cut:]
            if text:
                yield text
            if not self._held.startswith(OPEN):
                return

    def _calls(self, text: str) -> list[str | Call] | None:
        """The calls in JSON text, as many as are wanted; None where it is something else."""
        calls = [_as_call(value, self._names) for value in _decode(text)]
        known = [call for call in calls if call is not None]
        if not known or len(known) < len(calls):
            return None
        kept = known[: self._most - self._found]
        self._found += len(kept)
        return [*kept]


def _text_before_mark(text: str) -> int:
    """How many characters of a text come before a mark, or before what may become one."""
    at = text.find(OPEN)
    if at >= 0:
        return at
    longest = min(len(OPEN) - 1, len(text))
    return next((len(text) - size for size in range(longest, 0, -1) if OPEN.startswith(text[-size:])), len(text))


def _decode(text: str) -> Iterator[Any]:
    """The JSON values in a text, those of a list one by one; ends with a None where there is something else."""
    decoder, at = json.JSONDecoder(), 0
    text = text.strip()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield None
            return
        yield from value if isinstance(value, list) else [value]
        while at < len(text) and (text[at].isspace() or text[at] in ",;"):
            at += 1


def _as_call(value: Any, names: Container[str]) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))  # Llama 3 writes "parameters"
    if isinstance(arguments, str):  # JSON inside JSON
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None

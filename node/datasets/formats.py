"""What the columns of a record mean: six formats, told apart by their columns, each turned into rows.

    messages           messages: [{role, content}, ...]             OpenAI, TRL; one row per assistant turn
    sharegpt           conversations: [{from, value}, ...]          one row per assistant turn
    alpaca             instruction, output (input)
    input-output       input, output (task, history, pair)
    prompt-completion  prompt, completion                           texts, or lists of messages
    text               text                                         no request, the text is what is learned

Errors raised here name the cause; the caller adds the file and the line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from node.datasets.turns import MAX_TASK_CHARS, rows_of_turns, turns_of
from registry.errors import BadData
from registry.rows import Row

Format = Literal["messages", "sharegpt", "alpaca", "input-output", "prompt-completion", "text"]
Fields = Mapping[str, Any]

# What people call the columns, for the hint only: a column is never guessed at, its owner renames it.
OTHER_NAMES = {
    "question": "input",
    "query": "input",
    "request": "input",
    "utterance": "input",
    "sentence": "input",
    "answer": "output",
    "response": "output",
    "reply": "output",
    "target": "output",
    "label": "output",
    "intent": "output",
    "chosen": "completion",
    "dialogue": "messages",
    "conversation": "conversations",
    "content": "text",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a format and how a record becomes rows."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    rows: Callable[[Fields], list[Row]]

    def takes(self, columns: Iterable[str]) -> bool:
        """Whether all that the format needs is there."""
        return set(self.required) <= set(columns)


def _messages(fields: Fields) -> list[Row]:
    return rows_of_turns(turns_of(fields["messages"], "messages"))


def _sharegpt(fields: Fields) -> list[Row]:
    return rows_of_turns(turns_of(fields["conversations"], "conversations"))


def _alpaca(fields: Fields) -> list[Row]:
    parts = [_request(fields, "instruction"), _request(fields, "input")]
    return [Row(input="\n\n".join(part for part in parts if part), output=_answer(fields, "output"))]


def _input_output(fields: Fields) -> list[Row]:
    return [
        Row(
            input=_request(fields, "input"),
            output=_answer(fields, "output"),
            task=_task(fields),
            group=_request(fields, "pair"),
            history=_history(fields),
        )
    ]


def _prompt_completion(fields: Fields) -> list[Row]:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        before = turns_of(prompt, "prompt")
        return rows_of_turns([*before, *turns_of(completion, "completion")], first=len(before))
    return [Row(input=_request(fields, "prompt"), output=_answer(fields, "completion"))]


def _text(fields: Fields) -> list[Row]:
    return [Row(input="", output=_answer(fields, "text"))]


# In this order: the first that takes the columns is the format (a set may carry both `messages` and `prompt`).
FORMATS: dict[Format, Layout] = {
    "messages": Layout(("messages",), (), _messages),
    "sharegpt": Layout(("conversations",), (), _sharegpt),
    "alpaca": Layout(("instruction", "output"), ("input",), _alpaca),
    "input-output": Layout(("input", "output"), ("task", "history", "pair"), _input_output),
    "prompt-completion": Layout(("prompt", "completion"), (), _prompt_completion),
    "text": Layout(("text",), (), _text),
}


def format_of(columns: Iterable[str]) -> Format | None:
    """The first format that takes these columns."""
    names = set(columns)
    return next((name for name, layout in FORMATS.items() if layout.takes(names)), None)


def unknown_columns(columns: Iterable[str]) -> BadData:
    """The error for columns that no format takes: found, accepted, and the renaming that comes nearest."""
    found = list(columns)
    accepted = "; ".join(f"{', '.join(layout.required)} ({name})" for name, layout in FORMATS.items())
    shown = ", ".join(repr(name) for name in found[:20]) or "none"
    return BadData(f"no known format has these columns: {shown}. Accepted: {accepted}", _nearest(found))


def missing_columns(wanted: Format, columns: Iterable[str]) -> BadData:
    """The error for a record that lacks what the wanted format needs."""
    found = list(columns)
    lacking = ", ".join(f"`{name}`" for name in FORMATS[wanted].required if name not in found)
    shown = ", ".join(repr(name) for name in found[:20]) or "none"
    return BadData(f"{lacking} is missing, which the format {wanted} needs; found: {shown}", _nearest(found))


def _nearest(found: list[str]) -> str:
    """The renaming after which the format with the fewest lacking columns would take the record."""
    renamings: dict[str, str] = {}
    known = sorted({name for layout in FORMATS.values() for name in (*layout.required, *layout.optional)})
    for name in found:
        plain = name.strip().lower()
        close = difflib.get_close_matches(plain, known, n=1, cutoff=0.75)
        better = OTHER_NAMES.get(plain) or (close[0] if close else "")
        if better and better not in found:
            renamings.setdefault(better, name)
    best = max(
        FORMATS.values(),
        key=lambda layout: sum(name in renamings or name in found for name in layout.required) / len(layout.required),
    )
    steps = [f"{renamings[name]!r} to {name!r}" for name in (*best.required, *best.optional) if name in renamings]
    lacking = [name for name in best.required if name not in renamings and name not in found]
    if not steps:
        return "rename the columns to one of the accepted sets, such as input, output"
    return f"nearest: rename {', '.join(steps)}" + (f" and add {', '.join(map(repr, lacking))}" if lacking else "")


def _task(fields: Fields) -> str:
    task = _request(fields, "task")
    if len(task) > MAX_TASK_CHARS:
        raise BadData(
            f"`task` has {len(task)} characters, more than {MAX_TASK_CHARS}", "name the task in a word or two"
        )
    return task


def _history(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Earlier turns as [role, content] pairs, as our own files of rows have them."""
    value = fields.get("history")
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise BadData(
            "`history` is not a list of [role, content] pairs", 'write [["user", "..."], ["assistant", "..."]]'
        )
    turns = turns_of([{"role": role, "content": content} for role, content in value], "history")
    return tuple((turn.role, turn.content) for turn in turns)


def _request(fields: Fields, column: str) -> str:
    """A text that may be missing, null or empty."""
    value = fields.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadData(f"`{column}` is {_kind(value)}, not a text", f"write `{column}` as a text")
    return value


def _answer(fields: Fields, column: str) -> str:
    """What is to be learned: a text, or a value that is written as JSON; never null or blank."""
    value = fields.get(column)
    if isinstance(value, dict | list | bool | int | float):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    if value is None or value == "":
        raise BadData(f"`{column}` is {'null' if value is None else 'empty'}: there is no answer to learn", DROP_ROW)
    if not isinstance(value, str):
        raise BadData(f"`{column}` is {_kind(value)}, not a text", f"write `{column}` as a text")
    if not value.strip():
        raise BadData(f"`{column}` is blank: there is no answer to learn", DROP_ROW)
    return value


DROP_ROW = "remove the row, or give it an answer"


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", bytes: "bytes", bool: "true or false"}.get(type(value), "a number")

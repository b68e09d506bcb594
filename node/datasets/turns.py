"""Conversations as rows: every assistant turn is an answer to learn, with the turns before it as its history.

A short system turn at the beginning becomes the task, which the prompt names beside the path; a longer one stays a
turn of its own. Takes the turns of OpenAI and TRL (`role`, `content`, `tool_calls`) and of ShareGPT (`from`, `value`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import BadData
from registry.rows import Row

MAX_TURNS = 400
MAX_TASK_CHARS = 100  # what a row that travels may have
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn; `learned` is false where the data say that an assistant's turn has no weight."""

    role: str
    content: str
    learned: bool = True


def turns_of(value: object, column: str) -> list[Turn]:
    """The turns of a conversation column; a list, or that list written as JSON in a cell of a table."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadData(f"`{column}` is a text, not a list of turns", "write the list as JSON in the cell") from None
    if not isinstance(value, list) or not value:
        kind = "an empty list" if value == [] else "not a list of turns"
        raise BadData(f"`{column}` is {kind}", 'write [{"role": "user", "content": "..."}, ...]')
    if len(value) > MAX_TURNS:
        raise BadData(f"`{column}` has {len(value)} turns, more than {MAX_TURNS}", "cut the conversation into several")
    return [_turn(item, f"turn {number} of `{column}`") for number, item in enumerate(value, start=1)]


def rows_of_turns(turns: Sequence[Turn], first: int = 0) -> list[Row]:
    """One row per assistant turn from index `first` on; raises BadData where there is none."""
    start = 1 if turns[0].role == "system" and len(turns[0].content) <= MAX_TASK_CHARS else 0
    task = turns[0].content if start else ""
    rows: list[Row] = []
    answers = [i for i, turn in enumerate(turns) if i >= first and turn.role == "assistant" and turn.learned]
    if not answers:
        raise BadData("the conversation has no assistant turn to learn", "remove it, or add the answer")
    for i in answers:
        if not turns[i].content.strip():
            raise BadData(f"turn {i + 1}, an answer, is empty", "remove the conversation, or give it the answer")
        before = turns[start:i]
        asked = bool(before) and before[-1].role == "user"
        history = before[:-1] if asked else before
        rows.append(
            Row(
                input=before[-1].content if asked else "",
                output=turns[i].content,
                task=task,
                group=_group(turns) if len(answers) > 1 else "",
                history=tuple((turn.role, turn.content) for turn in history),
            )
        )
    return rows


def _group(turns: Sequence[Turn]) -> str:
    """Keeps the rows of one conversation on one side of a split."""
    asked = json.dumps([turn.content for turn in turns if turn.role == "user"])
    return "conversation " + hashlib.sha256(asked.encode()).hexdigest()


def _turn(item: object, where: str) -> Turn:
    if not isinstance(item, dict):
        raise BadData(f"{where} is not an object with role and content", 'write {"role": "user", "content": "..."}')
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        near = difflib.get_close_matches(str(role), ROLES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(ROLES)}"
        raise BadData(f"{where} has the role {role!r}", hint)
    content = _content(item.get("content", item.get("value")), item.get("tool_calls"), where)
    return Turn(ROLES[role], content, learned=item.get("weight") != 0)


def _content(content: Any, calls: Any, where: str) -> str:
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise BadData(f"{where} holds images or sound; only text is learned", "remove the conversation")
        content = "".join(str(part.get("text", "")) for part in content)
    if calls:
        if content:
            raise BadData(f"{where} holds both a text and tool calls", "make them two turns")
        return _calls(calls, where)
    if content is None:
        raise BadData(f"{where} has no content (null)", "remove the conversation, or give the turn its text")
    if not isinstance(content, str):
        raise BadData(f"{where} has content that is not a text", "write the content as a text")
    return content


def _calls(calls: Any, where: str) -> str:
    """OpenAI tool calls as the JSON that models of the tree answer with: {"tool": name, "args": {...}}."""
    written: list[dict[str, Any]] = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        name, arguments = function.get("name"), function.get("arguments", {})
        if not isinstance(name, str):
            raise BadData(f"{where} holds a tool call without a name", 'write {"function": {"name", "arguments"}}')
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                raise BadData(f"{where}: the arguments of {name} are not JSON", "correct the arguments") from None
        written.append({"tool": name, "args": arguments})
    return json.dumps(written[0] if len(written) == 1 else written, ensure_ascii=False, separators=(",", ":"))

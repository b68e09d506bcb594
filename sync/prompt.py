"""What a model is asked: the path that it answers for and the task, as the system turn, then the request.

A model plays the roles of several paths, and two paths may answer the same words differently; the path in the
prompt tells the roles apart. The text form of the turns is the chat template's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from registry.errors import BadData
from registry.rows import Row

# Where a base brings no chat template of its own, turns are joined as plain text.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


def system_turn(path: str, task: str = "") -> str:
    """The system turn of a path, with the task where the asker names one."""
    return f"{path} {task}".rstrip()


def conversation(row: Row, path: str) -> list[Message]:
    """The turns of a row up to, not including, its answer.

    There is one system turn, the first: what system turns of the row's own say stands in it below the path.
    """
    said = [content for role, content in row.history if role == "system"]
    turns = [Message(role="system", content="\n\n".join([system_turn(path, row.task), *said]))]
    turns += [Message(role=role, content=content) for role, content in row.history if role != "system"]
    if row.input:
        turns.append(Message(role="user", content=row.input))
    return turns


def prompt_text(tokenizer: Any, turns: Sequence[Message]) -> str:
    """The turns in the words of the base's chat template, up to where the answer begins; raises BadData."""
    return templated(tokenizer, turns, asks=True)


def templated(tokenizer: Any, turns: Sequence[Message], *, asks: bool) -> str:
    """The turns in the words of the base's chat template, with the beginning of an answer if it `asks`.

    Templates without a system role (Gemma) get the system turn in front of the first user turn. Raises BadData where
    the template does not take the turns either way.
    """
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))
    except Exception as refusal:  # noqa: BLE001  jinja2.TemplateError, and what a template raises itself
        try:
            folded = _without_system_turn(turns)
            return str(tokenizer.apply_chat_template(folded, tokenize=False, add_generation_prompt=asks))
        except Exception:  # noqa: BLE001  the same
            raise BadData(
                f"the chat template of this base does not take a row: {refusal}",
                "bring its turns into the order user, assistant, user, ...; or choose another base",
            ) from refusal


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the words of a request: `before` ends with the path; a space and the task may follow it."""

    before: str
    between: str
    after: str


def frame_of(tokenizer: Any, path: str) -> Frame:
    """The frame that the base's chat template puts around one task and one request asked of a path; raises BadData."""
    task, request = "banyan-task", "banyan-request"
    turns = [Message(role="system", content=system_turn(path, task)), Message(role="user", content=request)]
    before, found, rest = prompt_text(tokenizer, turns).partition(f" {task}")
    between, found_too, after = rest.partition(request)
    if not (found and found_too and between and after):
        raise BadData("the chat template of this base changes the words of a request", "choose another base")
    return Frame(before, between, after)


def _without_system_turn(turns: Sequence[Message]) -> list[Message]:
    system, rest = turns[0]["content"], list(turns[1:])
    if not rest or rest[0]["role"] != "user":
        return [Message(role="user", content=system), *rest]
    return [Message(role="user", content=f"{system}\n\n{rest[0]['content']}"), *rest[1:]]

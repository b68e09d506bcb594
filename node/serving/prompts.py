"""From a conversation to the token ids that a model of the tree is asked with.

The system turn begins with the path, as in training (`sync.prompt`): a model plays the roles of several paths. The
chat template is the base's own; one that does not know tools gets them, as JSON, in the system turn.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, cast

from node.serving.errors import Refused
from node.serving.requests import ChatRequest, Message, Tool
from registry.errors import BadData
from sync.prompt import PLAIN_TEMPLATE, system_turn, templated
from sync.prompt import Message as Turn

TOOLS_TEXT: Final = (
    "These functions can be called. To call one, answer with nothing but a JSON object of this form: "
    '{"name": "NAME", "arguments": {...}}'
)


class Prompts:
    """The prompts of one base."""

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context = context_tokens
        self._lock = threading.Lock()  # tokenizers may be set up anew by a call, which another must not meet
        if tokenizer.chat_template is None:
            tokenizer.chat_template = PLAIN_TEMPLATE

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template itself shows tools to the model."""
        return re.search(r"\btools\b", self._tokenizer.get_chat_template(tools=[{}])) is not None

    @cached_property
    def _longest_token(self) -> int:
        """Most bytes that one token stands for, at least; what is longer than the context of those is not tokenised."""
        return max(len(token.encode()) for token in self._tokenizer.get_vocab())

    def chat(self, path: str, request: ChatRequest, *, tools_as_json: bool) -> tuple[int, ...]:
        """A conversation up to where the answer begins; raises Refused."""
        tools = request.tools if request.tool_choice != "none" else ()
        native = self.takes_tools and not tools_as_json
        turns = _turns(path, request.messages, () if native else tools, native=native)
        try:
            with self._lock:
                text = self._text(turns, tools if native else ())
        except BadData as error:
            raise Refused("messages", error.message, error.hint) from error
        return self.tokens(text, "messages", special=False)

    def tokens(self, text: str, field: str, *, special: bool) -> tuple[int, ...]:
        """The ids of a text, with the tokenizer's own marks around it if `special`. Raises Refused."""
        least = len(text.encode("utf-8", "replace")) // self._longest_token
        if least >= self._context:
            raise self.too_long(field, f"at least {least}")
        with self._lock:
            ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        self.check_fits(ids, field)
        return tuple(ids)

    def check_fits(self, ids: Sequence[int], field: str) -> None:
        """Raise Refused unless ids leave room for an answer and are tokens of this model."""
        if not ids:
            raise Refused(field, "the prompt is empty: it has no tokens", "give at least one token")
        if len(ids) >= self._context:
            raise self.too_long(field, str(len(ids)))
        if not 0 <= min(ids) <= max(ids) < len(self._tokenizer):
            raise Refused(field, f"token ids of this model are 0 to {len(self._tokenizer) - 1}")

    def too_long(self, field: str, tokens: str) -> Refused:
        """What is said about a prompt that does not fit."""
        return Refused(
            field,
            f"the prompt has {tokens} tokens and leaves no room for an answer: the context of this model is "
            f"{self._context} tokens",
            "shorten it",
            "context_length_exceeded",
        )

    def _text(self, turns: Sequence[Turn], tools: Sequence[Tool]) -> str:
        if not tools:
            return templated(self._tokenizer, turns, asks=True)
        shown = [tool_value(tool) for tool in tools]
        try:
            return str(
                self._tokenizer.apply_chat_template(turns, tools=shown, tokenize=False, add_generation_prompt=True)
            )
        except Exception as refusal:  # jinja2.TemplateError, and what a template raises itself
            raise BadData(f"the chat template of this base does not take these turns: {refusal}") from refusal


def tool_value(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _turns(path: str, messages: Sequence[Message], tools: Sequence[Tool], *, native: bool) -> list[Turn]:
    """The turns for the template; `tools` are to be named in the system turn."""
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    said = "\n\n".join(message.content for message in messages[:first])
    system = system_turn(path, said) if path else said
    if tools:
        shown = [json.dumps(tool_value(tool)["function"], ensure_ascii=False) for tool in tools]
        system = "\n\n".join([system, "\n".join([TOOLS_TEXT, *shown])])
    return [Turn(role="system", content=system), *(_turn(message, native=native) for message in messages[first:])]


def _turn(message: Message, *, native: bool) -> Turn:
    turn: Any = {"role": message.role, "content": message.content}  # templates read more than the keys that all have
    if message.name is not None:
        turn["name"] = message.name
    if native and message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in message.tool_calls
        ]
    elif message.tool_calls:
        calls = [
            json.dumps({"name": call.name, "arguments": _object(call.arguments)}, ensure_ascii=False)
            for call in message.tool_calls
        ]
        turn["content"] = "\n".join([*([message.content] if message.content else []), *calls])
    if native and message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return cast(Turn, turn)


def _object(arguments: str) -> Any:
    """Arguments as a value, which is what templates write down; text that is no JSON stays text."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments

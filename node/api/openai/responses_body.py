"""The body of /v1/responses, as far as it keeps nothing between requests, and the neutral request that it means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from node.api.openai.bodies import Body, Count, ModelName
from node.api.openai.chat_body import Nothing
from node.api.openai.formats import FunctionName, ObjectFormat, TextFormat
from node.serving.requests import ChatRequest, Format, Message, NamedTool, Sampling, Tool, ToolCall, ToolChoice

LOGPROBS = "message.output_text.logprobs"
Status = Literal["in_progress", "completed", "incomplete"]


class InputPart(Body):
    """Text of a turn."""

    type: Literal["input_text"]
    text: str


class OutputPart(Body):
    """Text of an earlier answer, as it was given out."""

    type: Literal["output_text"]
    text: str
    annotations: Nothing | None = None
    logprobs: list[Any] | None = None


class MessageItem(Body):
    """A turn. `id`, `status` and `phase` are those of an earlier answer and have no effect."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[InputPart | OutputPart], Field(min_length=1)]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Body):
    """A call that an earlier answer asked for."""

    type: Literal["function_call"]
    call_id: str
    name: FunctionName
    arguments: str
    id: str | None = None
    status: Status | None = None


class CallOutputItem(Body):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]
    id: str | None = None
    status: Status | None = None


def _kind(item: Any) -> str | None:
    """The type of an item; those that name none are turns."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class FunctionTool(Body):
    """A function that the model may call; without `strict: false`, arguments follow its schema."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class SchemaFormat(Body):
    """JSON by a schema; it is followed exactly whether `strict` or not."""

    type: Literal["json_schema"]
    name: FunctionName
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextBody(Body):
    """What the text of the answer must follow."""

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None


class ResponseStreamOptions(Body):
    """`include_obfuscation` has no effect: nothing is padded here."""

    include_obfuscation: bool | None = None


class ResponseBody(Body):
    """An answer to items of a conversation, all of which come with the request: nothing is kept.

    Without effect: store, user, metadata, service_tier, safety_identifier, prompt_cache_key, prompt_cache_retention,
    and in `include` reasoning.encrypted_content (there is no hidden reasoning).
    """

    model: ModelName
    input: Annotated[str, Field(min_length=1)] | Annotated[list[Item], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Annotated[Count, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    user: Annotated[str, Field(max_length=4096)] | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @field_validator("previous_response_id")
    @classmethod
    def _nothing_is_kept(cls, value: str | None) -> None:
        if value is not None:
            raise ValueError("answers are not kept here: send the earlier items in input")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [tool.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        return self

    @property
    def with_logprobs(self) -> bool:
        """Whether the reply shows the probabilities of its tokens."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    def request(self, tenant: str) -> ChatRequest:
        """The neutral form."""
        sampling = Sampling(
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=(self.top_logprobs or 0) if self.with_logprobs else None,
        )
        first = [Message("system", self.instructions)] if self.instructions else []
        items = [Message("user", self.input)] if isinstance(self.input, str) else _messages(self.input)
        return ChatRequest(
            model=self.model,
            messages=(*first, *items),
            sampling=sampling,
            tools=tuple(map(_tool, self.tools or ())),
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            format=_format(self.text),
            tenant=tenant,
        )


def _messages(items: Sequence[MessageItem | CallItem | CallOutputItem]) -> list[Message]:
    """Items as turns: what the assistant said and the calls after it are one turn."""
    turns: list[Message] = []
    for item in items:
        if isinstance(item, CallItem):
            call = ToolCall(item.call_id, item.name, item.arguments)
            last = turns.pop() if turns and turns[-1].role == "assistant" else Message("assistant", "")
            turns.append(Message("assistant", last.content, tool_calls=(*last.tool_calls, call)))
        elif isinstance(item, CallOutputItem):
            turns.append(Message("tool", _text(item.output), tool_call_id=item.call_id))
        else:
            turns.append(Message("system" if item.role == "developer" else item.role, _text(item.content)))
    return turns


def _text(content: str | Sequence[InputPart | OutputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _tool(tool: FunctionTool) -> Tool:
    return Tool(tool.name, tool.description or "", tool.parameters or {}, tool.strict is not False)


def _choice(said: Literal["none", "auto", "required"] | FunctionChoice | None) -> ToolChoice:
    return NamedTool(said.name) if isinstance(said, FunctionChoice) else said or "auto"


def _format(text: TextBody | None) -> Format | None:
    match text.format if text is not None else None:
        case SchemaFormat() as wanted:
            return Format("json_schema", json.dumps(wanted.schema_), wanted.name, wanted.strict)
        case ObjectFormat():
            return Format("json_object")
        case _:
            return None

"""The body of /v1/chat/completions, and the neutral request that it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from node.api.openai.bodies import Body, Count, ModelName, SamplingBody, TextPart
from node.api.openai.formats import FunctionName, ResponseFormat, format_of
from node.serving.requests import (
    ChatRequest,
    Message,
    NamedTool,
    Tool,
    ToolCall,
    ToolChoice,
)

Nothing = Annotated[list[Any], Field(max_length=0)]
Content = str | Annotated[list[TextPart], Field(min_length=1)]


class RefusalPart(Body):
    """A part of a turn of the assistant that was a refusal."""

    type: Literal["refusal"]
    refusal: str


class CalledFunction(Body):
    """Which function was called, and with which arguments as JSON text."""

    name: FunctionName
    arguments: str


class CallBody(Body):
    """A call that the assistant asked for."""

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None  # clients that put a stream together leave it in


class SystemTurn(Body):
    """What holds for the whole conversation."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserTurn(Body):
    """What a user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantTurn(Body):
    """What the model said. The fields that only ever are empty here are those of replies that come back."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart | RefusalPart], Field(min_length=1)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[CallBody], Field(max_length=128)] | None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise ValueError("a turn of the assistant has content or tool_calls")
        return self


class ToolTurn(Body):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


class FunctionBody(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """A tool; functions are the only ones that others than OpenAI can offer."""

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Body):
    """The name of a function."""

    name: FunctionName


class NamedChoice(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(SamplingBody):
    """The next turn of a conversation.

    Without effect: user, metadata, store, service_tier, safety_identifier, prompt_cache_key, prompt_cache_retention,
    prediction, modalities (text alone). Of metadata the model `assistant` reads `session`, a conversation to go on
    with, and `models`: "all" that are known here, or those of the "tree" alone.
    """

    model: ModelName
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prediction: dict[str, Any] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs are for requests with logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens is the old name of max_completion_tokens: give one of them")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        return self

    def request(self, tenant: str) -> ChatRequest:
        """The neutral form."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return ChatRequest(
            model=self.model,
            messages=tuple(map(_message, self.messages)),
            sampling=self.sampling(most, (self.top_logprobs or 0) if self.logprobs else None),
            n=self.n or 1,
            tools=tuple(_tool(tool.function) for tool in self.tools or ()),
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            format=format_of(self.response_format),
            tenant=tenant,
            metadata=self.metadata or {},
        )


def text_of(content: str | list[TextPart] | list[TextPart | RefusalPart]) -> str:
    """The text of a turn; parts follow each other without anything between."""
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _message(turn: Turn) -> Message:
    match turn:
        case AssistantTurn():
            calls = tuple(
                ToolCall(call.id, call.function.name, call.function.arguments) for call in turn.tool_calls or ()
            )
            return Message("assistant", text_of(turn.content or turn.refusal or ""), turn.name, calls)
        case ToolTurn():
            return Message("tool", text_of(turn.content), turn.name, tool_call_id=turn.tool_call_id)
        case UserTurn():
            return Message("user", text_of(turn.content), turn.name)
        case _:
            return Message("system", text_of(turn.content), turn.name)


def _tool(function: FunctionBody) -> Tool:
    return Tool(function.name, function.description or "", function.parameters or {}, bool(function.strict))


def _choice(said: str | NamedChoice | None) -> ToolChoice:
    if isinstance(said, NamedChoice):
        return NamedTool(said.function.name)
    return said if said in ("none", "auto", "required") else "auto"  # type: ignore[return-value]

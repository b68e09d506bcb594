"""Requests to a model and its replies, neutral of any wire format, and the `Backend` that turns one into the other.

The wire interfaces (node/api) parse into these and write replies from them; `node.serving.local` answers with our own
engine, `node.serving.upstream` with another server. `None` in a request means that the asker did not say.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asked for; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `tool_calls` stand in turns of the assistant, `tool_call_id` in those of a tool."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called; `parameters` is a JSON schema. `strict`: follow it exactly."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, slots=True)
class Format:
    """What the text of an answer must follow: a JSON schema, any JSON object, a regex, a Lark grammar.

    `text` is the schema as JSON text, the expression or the grammar; empty for json_object. `name` and `strict` are
    what the asker called a JSON schema, for servers that want to know.
    """

    kind: Literal["json_schema", "json_object", "regex", "lark"]
    text: str = ""
    name: str = "answer"
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `logprobs`: so many alternatives beside each token's own, 0 for its own alone."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The next turn of a conversation, `n` times. `tenant` keeps the caches of different users apart.

    `metadata` is for backends that say what they read of it; the others pass it over.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    format: Format | None = None
    tenant: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """The continuation of one prompt, text or token ids, `n` times; `echo`: with the prompt in front."""

    model: str
    prompt: str | tuple[int, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    echo: bool = False
    format: Format | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Vectors of texts, each text or token ids; `dimensions`: so many numbers each."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    tenant: str = ""


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that may stand at a place, its bytes, and the logarithm (base e) of its probability."""

    token: str
    logprob: float
    bytes: bytes | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The token that does stand there (`logprob` None for the first of an echoed prompt), and its alternatives."""

    token: str
    logprob: float | None
    bytes: bytes | None = None
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of tool call number `index`: the first piece of each has `id` and `name`; `arguments` add up."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `cached_tokens` of the prompt's needed no computation."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of answer number `index`. The last piece of each answer has `finish`.

    `usage` is of the whole request (all n answers) and comes once, at the latest with the very last piece.
    """

    index: int = 0
    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in their order, and the tokens that were read."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served: its name, and where known its place, the model above it, its base, its context."""

    id: str
    created: int  # seconds since 1970
    owned_by: str
    path: str | None = None
    version: int | None = None
    release: str | None = None  # digest
    parent: str | None = None  # id of the model above
    base: str | None = None  # name of the base
    context_tokens: int | None = None


class Backend(Protocol):
    """What answers requests. Errors are those of `node.serving.errors`, raised before the first piece where possible.

    Closing a generator (`aclose`), or cancelling the task that reads it, ends the work behind it at once.
    """

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the answers as they come. Raises Refused, UnknownModel, Busy, Unavailable."""

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the continuations as they come; an echoed prompt is the first piece. Raises the same."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector for each input. Raises the same."""

    async def models(self) -> Sequence[ModelInfo]:
        """What is served now. Raises Unavailable."""

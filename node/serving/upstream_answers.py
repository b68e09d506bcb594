"""Answers of an OpenAI-compatible server, as neutral pieces.

They are read leniently, since every server adds fields of its own; what is missing or of the wrong type makes
`ValidationError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from node.serving.requests import (
    Alternative,
    Delta,
    FinishReason,
    ModelInfo,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

Octet = Annotated[int, Field(ge=0, le=255)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Function(_Wire):
    name: str | None = None
    arguments: str | None = None


class _Call(_Wire):
    index: int = Field(0, ge=0, le=1_000)
    id: str | None = None
    function: _Function = _Function()


class _Top(_Wire):
    token: str
    logprob: FiniteFloat
    octets: tuple[Octet, ...] | None = Field(None, alias="bytes")

    def raw(self) -> bytes | None:
        """The token's bytes, where the server gave them."""
        return None if self.octets is None else bytes(self.octets)


class _Logprob(_Top):
    top_logprobs: tuple[_Top, ...] = ()


class _ChatLogprobs(_Wire):
    content: tuple[_Logprob, ...] | None = None


class _ChatPiece(_Wire):
    content: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _ChatChoice(_Wire):
    index: int = Field(0, ge=0, le=100_000)
    delta: _ChatPiece = _ChatPiece()
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None


class _TextLogprobs(_Wire):
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[FiniteFloat | None, ...] = ()
    top_logprobs: tuple[dict[str, FiniteFloat] | None, ...] | None = None


class _TextChoice(_Wire):
    index: int = Field(0, ge=0, le=100_000)
    text: str = ""
    logprobs: _TextLogprobs | None = None
    finish_reason: str | None = None


class _Details(_Wire):
    cached_tokens: int | None = None


class _Usage(_Wire):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(_Wire):
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None

    def counted(self) -> Usage | None:
        """The usage, in our words."""
        if self.usage is None:
            return None
        cached = self.usage.prompt_tokens_details.cached_tokens if self.usage.prompt_tokens_details else None
        return Usage(self.usage.prompt_tokens, self.usage.completion_tokens or 0, cached or 0)


class ChatChunk(_Chunk):
    """One event of a streamed chat."""

    choices: tuple[_ChatChoice, ...] = ()

    def deltas(self) -> list[Delta]:
        """The pieces in it."""
        return [
            Delta(
                index=choice.index,
                text=choice.delta.content or "",
                tool_calls=tuple(_call(call) for call in choice.delta.tool_calls or ()),
                logprobs=tuple(_logprob(one) for one in (choice.logprobs and choice.logprobs.content) or ()),
                finish=_finish(choice.finish_reason),
            )
            for choice in self.choices
        ]


class TextChunk(_Chunk):
    """One event of a streamed completion."""

    choices: tuple[_TextChoice, ...] = ()

    def deltas(self) -> list[Delta]:
        """The pieces in it."""
        return [
            Delta(
                index=choice.index,
                text=choice.text,
                logprobs=tuple(_text_logprobs(choice.logprobs)) if choice.logprobs else (),
                finish=_finish(choice.finish_reason),
            )
            for choice in self.choices
        ]


class _Vector(_Wire):
    index: int
    embedding: tuple[FiniteFloat, ...]


class Vectors(_Wire):
    """The answer to a request for embeddings."""

    data: tuple[_Vector, ...]
    usage: _Usage | None = None

    def ordered(self, count: int) -> tuple[tuple[float, ...], ...]:
        """The vectors by their index. Raises ValueError when they are not `count`."""
        found = {vector.index: vector.embedding for vector in self.data}
        if sorted(found) != list(range(count)) or len(self.data) != count:
            raise ValueError(f"{len(self.data)} vectors for {count} texts")
        return tuple(found[index] for index in range(count))


class _Model(_Wire):
    id: str
    created: int = 0
    owned_by: str = ""
    parent: str | None = None
    root: str | None = None
    max_model_len: int | None = None


class Models(_Wire):
    """The answer to GET /models."""

    data: tuple[_Model, ...]

    def infos(self, owner: str) -> list[ModelInfo]:
        """The models, in our words; `owner` where the server names none."""
        return [
            ModelInfo(
                one.id,
                one.created,
                one.owned_by or owner,
                parent=one.parent,
                base=one.root,
                context_tokens=one.max_model_len,
            )
            for one in self.data
        ]


def _call(call: _Call) -> ToolCallDelta:
    return ToolCallDelta(call.index, call.id, call.function.name, call.function.arguments or "")


def _logprob(one: _Logprob) -> TokenLogprob:
    top = tuple(Alternative(other.token, other.logprob, other.raw()) for other in one.top_logprobs)
    return TokenLogprob(one.token, one.logprob, one.raw(), top)


def _text_logprobs(given: _TextLogprobs) -> Iterable[TokenLogprob]:
    tops = given.top_logprobs or (None,) * len(given.tokens)
    for token, logprob, top in zip(given.tokens, given.token_logprobs, tops, strict=True):
        yield TokenLogprob(token, logprob, None, tuple(Alternative(*one) for one in (top or {}).items()))


def _finish(reason: str | None) -> FinishReason | None:
    """Why it ended; servers have words of their own for a model's own end."""
    if reason is None:
        return None
    return FinishReason(reason) if reason in set(FinishReason) else FinishReason.STOP

"""The replies of /v1/chat/completions: whole, and in pieces, with OpenAI's names and `null`s."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

from pydantic import BaseModel

from node.serving.requests import Alternative, Delta, FinishReason, TokenLogprob, ToolCallDelta, Usage


class TopLogprob(BaseModel):
    """A token that may stand at a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """The tokens of an answer with their probabilities."""

    content: list[ContentLogprob]
    refusal: None


class Function(BaseModel):
    """What is called, in pieces that add up."""

    name: str | None = None
    arguments: str


class CallReply(BaseModel):
    """A call, whole or a piece of it (then with `index`)."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: Function


class MessageReply(BaseModel):
    """A turn of the assistant, or a piece of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[CallReply] | None = None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: MessageReply
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: MessageReply
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class PromptDetails(BaseModel):
    """Tokens of the prompt that came from the cache."""

    cached_tokens: int


class UsageReply(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatCompletion(BaseModel):
    """The whole reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    system_fingerprint: None


class ChatCompletionChunk(BaseModel):
    """A piece of the reply."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: None
    usage: UsageReply | None = None


def usage_reply(usage: Usage) -> UsageReply:
    """Tokens as OpenAI counts them."""
    return UsageReply(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=usage.cached_tokens),
    )


async def chat_completion(
    deltas: AsyncGenerator[Delta, None], n: int, reply_id: str, created: int, model: str
) -> ChatCompletion:
    """Put the whole reply together."""
    pieces: list[list[Delta]] = [[] for _ in range(n)]
    usage = Usage(0, 0)
    async with aclosing(deltas):
        async for delta in deltas:
            pieces[delta.index].append(delta)
            usage = delta.usage or usage
    return ChatCompletion(
        id=reply_id,
        object="chat.completion",
        created=created,
        model=model,
        choices=[_choice(index, given) for index, given in enumerate(pieces)],
        usage=usage_reply(usage),
        system_fingerprint=None,
    )


def chunk_choice(delta: Delta, *, first: bool, with_logprobs: bool) -> ChunkChoice:
    """A piece of one answer; the first one names the role."""
    message = MessageReply(role="assistant", content="", refusal=None) if first else MessageReply()
    if delta.text:
        message.content = delta.text
    if delta.tool_calls:
        message.tool_calls = [_call_piece(call) for call in delta.tool_calls]
    return ChunkChoice(
        index=delta.index,
        delta=message,
        logprobs=_logprobs(delta.logprobs) if with_logprobs and delta.logprobs else None,
        finish_reason=delta.finish,
    )


def _call_piece(call: ToolCallDelta) -> CallReply:
    """A piece of a call; what is not in it is left out, as in OpenAI's streams."""
    piece = CallReply(index=call.index, function=Function(arguments=call.arguments))
    if call.id is not None:
        piece.id, piece.type = call.id, "function"
    if call.name is not None:
        piece.function.name = call.name
    return piece


def _choice(index: int, pieces: Sequence[Delta]) -> Choice:
    text = "".join(delta.text for delta in pieces)
    calls = _whole_calls(pieces)
    logprobs = [logprob for delta in pieces for logprob in delta.logprobs]
    message = MessageReply(role="assistant", content=text if text or not calls else None, refusal=None)
    if calls:
        message.tool_calls = calls
    return Choice(
        index=index,
        message=message,
        logprobs=_logprobs(logprobs) if logprobs else None,
        finish_reason=next((delta.finish for delta in pieces if delta.finish is not None), FinishReason.STOP),
    )


def _whole_calls(pieces: Sequence[Delta]) -> list[CallReply]:
    calls: dict[int, CallReply] = {}
    for piece in (call for delta in pieces for call in delta.tool_calls):
        if piece.index not in calls:
            function = Function(name=piece.name, arguments="")
            calls[piece.index] = CallReply(id=piece.id, type="function", function=function)
        calls[piece.index].function.arguments += piece.arguments
    return list(calls.values())


def _logprobs(found: Sequence[TokenLogprob]) -> Logprobs:
    return Logprobs(content=[_content_logprob(one) for one in found], refusal=None)


def _content_logprob(one: TokenLogprob) -> ContentLogprob:
    return ContentLogprob(
        token=one.token,
        logprob=one.logprob if one.logprob is not None else 0.0,
        bytes=list(one.bytes) if one.bytes is not None else None,
        top_logprobs=[_top_logprob(other) for other in one.top],
    )


def _top_logprob(other: Alternative) -> TopLogprob:
    return TopLogprob(
        token=other.token, logprob=other.logprob, bytes=list(other.bytes) if other.bytes is not None else None
    )

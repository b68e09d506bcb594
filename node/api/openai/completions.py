"""/v1/completions: the continuation of text or token ids."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, model_validator

from node.api.openai.access import tenant_of
from node.api.openai.bodies import MAX_N, Count, ModelName, SamplingBody, TokenId, body_of, called, described
from node.api.openai.chat_reply import UsageReply, usage_reply
from node.api.openai.formats import ResponseFormat, format_of
from node.api.openai.streams import DONE, event, merged, streamed, whole
from node.serving.requests import Backend, CompletionRequest, Delta, FinishReason, TokenLogprob, Usage

NAMES: Final = {"format": "response_format"}
Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[list[TokenId], Field(min_length=1)]


class CompletionBody(SamplingBody):
    """The continuation of one prompt or of several. `suffix` is refused. Without effect: user."""

    model: ModelName
    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_N)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_N)]
    )
    max_tokens: Count | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of other than n is not supported: every answer that is made is given")
        if len(self.prompts) * (self.n or 1) > MAX_N:
            raise ValueError(f"prompts times n are {len(self.prompts) * (self.n or 1)}, {MAX_N} answers are allowed")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 is for requests with echo: true")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [part for part in self.prompt if isinstance(part, int)]
        if ids:
            return [tuple(ids)]
        return [part if isinstance(part, str) else tuple(part) for part in self.prompt if not isinstance(part, int)]

    def requests(self, tenant: str) -> list[CompletionRequest]:
        """The neutral form, one for each prompt."""
        sampling, wanted = self.sampling(self.max_tokens, self.logprobs), format_of(self.response_format)
        return [
            CompletionRequest(self.model, prompt, sampling, self.n or 1, bool(self.echo), wanted, tenant)
            for prompt in self.prompts
        ]


class TextLogprobs(BaseModel):
    """The tokens of a text with their probabilities; nothing predicts the first token of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One continuation, or a piece of it."""

    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """The reply, or a piece of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: None
    usage: UsageReply | None = None


def completion_routes(backend: Backend, now: Callable[[], datetime]) -> APIRouter:
    """The route of completions."""
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=Completion, openapi_extra=described(CompletionBody))
    async def complete(request: Request, body: Annotated[CompletionBody, Depends(body_of(CompletionBody))]) -> Response:
        """The continuations of prompts, whole or as server-sent events."""
        empty = Completion(
            id=f"cmpl-{uuid.uuid4().hex}", object="text_completion", created=int(now().timestamp()), model=body.model,
            choices=[], system_fingerprint=None,
        )  # fmt: skip
        asked = body.requests(tenant_of(request))
        if body.stream:
            return await streamed(request, _events(backend, body, asked, empty))
        return await whole(request, _whole(backend, asked, empty))

    return routes


async def _deltas(backend: Backend, asked: list[CompletionRequest]) -> AsyncGenerator[Delta, None]:
    """The pieces of all prompts, numbered through; the usage of all of them with the last piece."""
    ended, total = 0, Usage(0, 0)
    with called(NAMES):
        async with aclosing(merged([backend.complete(one) for one in asked])) as pieces:
            async for number, delta in pieces:
                usage = None
                if delta.usage is not None:
                    ended += 1
                    total = _sum(total, delta.usage)
                    usage = total if ended == len(asked) else None
                index = number * asked[0].n + delta.index
                yield Delta(index, delta.text, logprobs=delta.logprobs, finish=delta.finish, usage=usage)


async def _whole(backend: Backend, asked: list[CompletionRequest], reply: Completion) -> Completion:
    pieces: list[list[Delta]] = [[] for _ in range(len(asked) * asked[0].n)]
    usage = Usage(0, 0)
    async with aclosing(_deltas(backend, asked)) as deltas:
        async for delta in deltas:
            pieces[delta.index].append(delta)
            usage = delta.usage or usage
    choices = [
        TextChoice(
            text="".join(delta.text for delta in given),
            index=index,
            logprobs=_logprobs([one for delta in given for one in delta.logprobs], 0)
            if asked[0].sampling.logprobs is not None
            else None,
            finish_reason=next((delta.finish for delta in given if delta.finish is not None), None),
        )
        for index, given in enumerate(pieces)
    ]
    return reply.model_copy(update={"choices": choices, "usage": usage_reply(usage)})


async def _events(
    backend: Backend, body: CompletionBody, asked: list[CompletionRequest], empty: Completion
) -> AsyncGenerator[bytes, None]:
    usage = None
    offsets = [0] * (len(asked) * asked[0].n)
    piece = empty.model_copy(update={"usage": None}) if body.with_usage else empty
    async with aclosing(_deltas(backend, asked)) as deltas:
        async for delta in deltas:
            usage = delta.usage or usage
            if not (delta.text or delta.logprobs or delta.finish):
                continue
            logprobs = _logprobs(delta.logprobs, offsets[delta.index]) if delta.logprobs else None
            offsets[delta.index] += sum(len(one.token) for one in delta.logprobs)
            choice = TextChoice(text=delta.text, index=delta.index, logprobs=logprobs, finish_reason=delta.finish)
            yield event(piece.model_copy(update={"choices": [choice]}))
    if body.with_usage and usage is not None:
        yield event(piece.model_copy(update={"usage": usage_reply(usage)}))
    yield DONE


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
    )


def _logprobs(found: tuple[TokenLogprob, ...] | list[TokenLogprob], start: int) -> TextLogprobs:
    """Probabilities in the old form; `text_offset` counts characters from `start` on."""
    offsets = []
    for one in found:
        offsets.append(start)
        start += len(one.token)
    return TextLogprobs(
        tokens=[one.token for one in found],
        token_logprobs=[one.logprob for one in found],
        top_logprobs=[
            {other.token: other.logprob for other in one.top} if one.logprob is not None else None for one in found
        ],
        text_offset=offsets,
    )

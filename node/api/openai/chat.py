"""/v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from node.api.openai.access import tenant_of
from node.api.openai.bodies import body_of, called, described
from node.api.openai.chat_body import ChatBody
from node.api.openai.chat_reply import ChatCompletion, ChatCompletionChunk, chat_completion, chunk_choice, usage_reply
from node.api.openai.streams import DONE, event, streamed, whole
from node.serving.requests import Backend, ChatRequest


def chat_routes(backend: Backend, now: Callable[[], datetime]) -> APIRouter:
    """The route of chats."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=ChatCompletion, openapi_extra=described(ChatBody))
    async def chat(request: Request, body: Annotated[ChatBody, Depends(body_of(ChatBody))]) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        asked = body.request(tenant_of(request))
        reply_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(now().timestamp())
        if body.stream:
            return await streamed(request, _events(backend, body, asked, reply_id, created))
        return await whole(request, _whole(backend, body, asked, reply_id, created))

    return routes


async def _whole(backend: Backend, body: ChatBody, asked: ChatRequest, reply_id: str, created: int) -> ChatCompletion:
    with called(_names(body)):
        return await chat_completion(backend.chat(asked), asked.n, reply_id, created, body.model)


async def _events(
    backend: Backend, body: ChatBody, asked: ChatRequest, reply_id: str, created: int
) -> AsyncGenerator[bytes, None]:
    chunk = ChatCompletionChunk(
        id=reply_id, object="chat.completion.chunk", created=created, model=body.model, choices=[],
        system_fingerprint=None,
    )  # fmt: skip
    if body.with_usage:
        chunk.usage = None
    begun: set[int] = set()
    usage = None
    with called(_names(body)):
        async with aclosing(backend.chat(asked)) as deltas:
            async for delta in deltas:
                usage = delta.usage or usage
                choice = chunk_choice(delta, first=delta.index not in begun, with_logprobs=bool(body.logprobs))
                begun.add(delta.index)
                if choice.delta.model_fields_set or choice.finish_reason or choice.logprobs:
                    yield event(chunk.model_copy(update={"choices": [choice]}))
    if body.with_usage and usage is not None:
        yield event(chunk.model_copy(update={"usage": usage_reply(usage)}))
    yield DONE


def _names(body: ChatBody) -> dict[str, str]:
    """What the fields of the neutral request are called here."""
    limit = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    return {"max_tokens": limit, "format": "response_format", "prompt": "messages", "logprobs": "top_logprobs"}

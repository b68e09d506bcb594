"""The routes of the small interface."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from node.api.openai.access import only_holders, tenant_of
from node.api.openai.bodies import body_of, described
from node.api.openai.streams import event, streamed, whole
from node.api.simple.answers import Answers
from node.api.simple.bodies import AnswerReply, ChatBody, CompleteBody, EmbedBody, EmbedReply

BODIES: Final = (ChatBody, CompleteBody, EmbedBody)


def simple_routes(answers: Answers, keys: Sequence[str]) -> APIRouter:
    """The routes; without keys they answer to this machine alone."""
    routes = APIRouter(dependencies=[Depends(only_holders(keys))])

    @routes.post("/chat", response_model=AnswerReply, openapi_extra=described(ChatBody))
    async def chat(request: Request, body: Annotated[ChatBody, Depends(body_of(ChatBody))]) -> Response:
        """The next turn of a conversation: `{"prompt": "..."}` or `{"messages": [{"role", "content"}]}`."""
        return await whole(request, answers.chat(body, tenant_of(request)))

    @routes.post("/chat-sse", response_class=Response, openapi_extra=described(ChatBody))
    async def chat_sse(request: Request, body: Annotated[ChatBody, Depends(body_of(ChatBody))]) -> Response:
        """The same as server-sent events: `{"text"}` each, the last with `finish` and `usage`, or `{"error"}`."""
        return await streamed(request, _events(answers, body, tenant_of(request)))

    @routes.post("/complete", response_model=AnswerReply, openapi_extra=described(CompleteBody))
    async def complete(request: Request, body: Annotated[CompleteBody, Depends(body_of(CompleteBody))]) -> Response:
        """The continuation of a text: `{"prompt": "..."}`."""
        return await whole(request, answers.complete(body, tenant_of(request)))

    @routes.post("/embed", response_model=EmbedReply, openapi_extra=described(EmbedBody))
    async def embed(request: Request, body: Annotated[EmbedBody, Depends(body_of(EmbedBody))]) -> Response:
        """One vector for each text: `{"texts": ["..."]}`."""
        return await whole(request, answers.embed(body, tenant_of(request)))

    return routes


async def _events(answers: Answers, body: ChatBody, tenant: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers.pieces(body, tenant)) as pieces:
        async for piece in pieces:
            yield event(piece.model_dump(mode="json", exclude_none=True))

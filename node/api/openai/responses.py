"""/v1/responses, the part of it that keeps nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from node.api.openai.access import tenant_of
from node.api.openai.bodies import body_of, called, described
from node.api.openai.responses_body import ResponseBody
from node.api.openai.responses_reply import ResponseWriter
from node.api.openai.streams import event, streamed, whole
from node.serving.requests import Backend, ChatRequest

NAMES: Final = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "prompt": "input",
    "format": "text.format",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
}


def response_routes(backend: Backend, now: Callable[[], datetime]) -> APIRouter:
    """The route of responses."""
    routes = APIRouter()

    @routes.post("/v1/responses", response_class=JSONResponse, openapi_extra=described(ResponseBody))
    async def respond(request: Request, body: Annotated[ResponseBody, Depends(body_of(ResponseBody))]) -> Response:
        """An answer to the items of a conversation, whole or as server-sent events."""
        writer = ResponseWriter(body, int(now().timestamp()))
        events = _events(backend, body.request(tenant_of(request)), writer)
        if body.stream:
            return await streamed(request, _written(events))
        return await whole(request, _whole(events, writer))

    return routes


async def _events(backend: Backend, asked: ChatRequest, writer: ResponseWriter) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a reply; the first ones wait for the first piece, so that a refusal is a status of its own."""
    begun = False
    with called(NAMES):
        async with aclosing(backend.chat(asked)) as deltas:
            async for delta in deltas:
                if not begun:
                    begun = True
                    for one in writer.begin():
                        yield one
                for one in writer.add(delta):
                    yield one
    for one in writer.end():
        yield one


async def _written(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for one in events:
            yield event(one, one["type"])


async def _whole(events: AsyncGenerator[dict[str, Any], None], writer: ResponseWriter) -> dict[str, Any]:
    async with aclosing(events):
        async for _ in events:
            pass
    return writer.response

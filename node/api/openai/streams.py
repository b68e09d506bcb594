"""Answers that go out while they are made, and the end of work that nobody waits for any more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from node.api.errors import GONE, answer_to
from node.serving.requests import Delta

log = logging.getLogger(__name__)

AHEAD: Final = 64  # pieces that may wait between the backend and the writer, when several prompts are answered
T = TypeVar("T")


def event(value: BaseModel | dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event. The JSON is ASCII, because some of what Python calls a line end is none in JSON."""
    text = value.model_dump_json(exclude_unset=True, ensure_ascii=True) if isinstance(value, BaseModel) else None
    return format_sse_event(data_str=text or json.dumps(value), event=name)


DONE: Final = format_sse_event(data_str="[DONE]")


async def streamed(request: Request, events: AsyncGenerator[bytes, None]) -> Response:
    """The response that sends events as they come. What fails before the first is raised, for a proper status."""
    first = await unless_gone(request, anext(events, b""))
    return EventSourceResponse(_sent(first, events)) if first is not None else Response(status_code=GONE)


async def whole(request: Request, work: Coroutine[Any, Any, BaseModel | dict[str, Any]]) -> Response:
    """The response with the result of some work, which ends with its client."""
    reply = await unless_gone(request, work)
    if reply is None:
        return Response(status_code=GONE)
    if isinstance(reply, BaseModel):
        return Response(reply.model_dump_json(exclude_unset=True), media_type="application/json")
    return JSONResponse(reply)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of some work; None, and the work cancelled, when the client leaves first. The body was read before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def merged(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[tuple[int, Delta], None]:
    """The pieces of several streams as they come, with the number of their stream; the first error ends all."""
    queue: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue(AHEAD)

    async def forward(number: int, stream: AsyncGenerator[Delta, None]) -> None:
        try:
            async for delta in stream:
                await queue.put((number, delta))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001  raised where the pieces are read
            await queue.put(error)

    tasks = [asyncio.ensure_future(forward(number, stream)) for number, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            got = await queue.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                running -= 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sent(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        yield first
        try:
            async for one in events:
                yield one
        except Exception as error:  # the status has gone out: what failed can only be said in the stream
            log.exception("a stream broke off")
            yield event(answer_to(error)[1])

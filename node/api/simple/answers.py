"""`Answers`: what both doors of the small interface do, HTTP and gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from node.api.openai.bodies import called
from node.api.simple.bodies import (
    AnswerReply,
    ChatBody,
    CompleteBody,
    EmbedBody,
    EmbedReply,
    PieceReply,
    UsageReply,
)
from node.serving.errors import Unavailable
from node.serving.requests import Backend, Delta, FinishReason, Usage

# What the fields of neutral requests are called here.
NAMES: Final = {"format": "json_schema", "response_format": "json_schema", "input": "texts"}
NOTHING: Final = Usage(0, 0)


class Answers:
    """Questions to a backend; one that names no model goes to `first`. Errors are those of `node.serving.errors`."""

    def __init__(self, backend: Backend, first: str) -> None:
        self._backend = backend
        self._first = first

    async def chat(self, body: ChatBody, tenant: str) -> AnswerReply:
        """The next turn of a conversation."""
        return await self._whole(body.model, self.pieces(body, tenant))

    async def complete(self, body: CompleteBody, tenant: str) -> AnswerReply:
        """The continuation of a text."""
        return await self._whole(body.model, self.pieces(body, tenant))

    async def embed(self, body: EmbedBody, tenant: str) -> EmbedReply:
        """The vectors of texts."""
        model = body.model or self._first
        with called(NAMES):
            found = await self._backend.embed(body.request(model, tenant))
        vectors = [list(vector) for vector in found.vectors]
        return EmbedReply(model=model, vectors=vectors, prompt_tokens=found.prompt_tokens)

    async def pieces(self, body: ChatBody | CompleteBody, tenant: str) -> AsyncGenerator[PieceReply, None]:
        """An answer as it comes; the last piece says why it ended, and the tokens."""
        finish, usage = None, NOTHING
        with called(NAMES):
            async with aclosing(self._deltas(body, tenant)) as deltas:
                async for delta in deltas:
                    finish, usage = delta.finish or finish, delta.usage or usage
                    if delta.text:
                        yield PieceReply(text=delta.text)
        if finish is None:
            raise Unavailable("the answer broke off", "try again")
        yield PieceReply(text="", finish=finish, usage=UsageReply.of(usage))

    def _deltas(self, body: ChatBody | CompleteBody, tenant: str) -> AsyncGenerator[Delta, None]:
        model = body.model or self._first
        if isinstance(body, ChatBody):
            return self._backend.chat(body.request(model, tenant))
        return self._backend.complete(body.request(model, tenant))

    async def _whole(self, model: str, pieces: AsyncGenerator[PieceReply, None]) -> AnswerReply:
        texts, last = [], PieceReply(text="")
        async with aclosing(pieces) as coming:
            async for last in coming:
                texts.append(last.text)
        return AnswerReply(
            model=model or self._first,
            text="".join(texts),
            finish=last.finish or FinishReason.STOP,
            usage=last.usage or UsageReply.of(NOTHING),
        )

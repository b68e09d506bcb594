"""`Handle`: a request on its way. The engine's thread writes into it, one reader takes out of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable

from node.engine.errors import EngineError
from node.engine.requests import Chunk, Generation


class Handle:
    """Chunks in the order of their making, and how it ended. A slow reader is bounded by its own max_tokens.

    `reader` is the event loop of who will `read`; None for who polls `take`.
    """

    def __init__(self, request: Generation, reader: asyncio.AbstractEventLoop | None = None) -> None:
        self.request = request
        self.reader = reader
        self.ended = False
        self._error: EngineError | None = None
        self._chunks: deque[Chunk] = deque()
        self._news = asyncio.Event()

    def put(self, chunk: Chunk) -> None:
        """Append a piece of an answer."""
        self._chunks.append(chunk)

    def end(self, error: EngineError | None = None) -> None:
        """Nothing follows; with an error, the reader gets that after what is there. Only the first end counts."""
        if not self.ended:
            self._error = error
            self.ended = True

    def take(self) -> list[Chunk]:
        """What has come since the last time. Raises the error that ended the request, once nothing is left."""
        chunks = [self._chunks.popleft() for _ in range(len(self._chunks))]
        if not chunks and self._error is not None:
            raise self._error
        return chunks

    async def read(self) -> AsyncGenerator[Chunk, None]:
        """Every chunk as it comes. Raises the error that ended the request."""
        while True:
            ended = self.ended  # before the chunks are looked at: what is put before the end is seen
            for chunk in self.take():
                yield chunk
            if not ended:
                await self._news.wait()
                self._news.clear()
            elif not self._chunks:
                self.take()
                return

    def notice(self) -> None:
        """Wake the reader; in its event loop."""
        self._news.set()


def wake(handles: Iterable[Handle]) -> list[Handle]:
    """Wake the readers of handles that have news, once for each event loop; returns those whose loop is gone."""
    waiting: dict[asyncio.AbstractEventLoop, list[Handle]] = {}
    for handle in handles:
        if handle.reader is not None:
            waiting.setdefault(handle.reader, []).append(handle)
    lost: list[Handle] = []
    for reader, together in waiting.items():
        try:
            reader.call_soon_threadsafe(_notice, together)
        except RuntimeError:  # the loop is closed
            lost += together
    return lost


def _notice(handles: Iterable[Handle]) -> None:
    for handle in handles:
        handle.notice()

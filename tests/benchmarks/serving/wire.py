"""`Wire`: HTTP/1.1 with next to no work of its own, so that what is timed is the server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LONGEST_S = 60.0
KEPT_S = 3.0  # servers close a connection that is idle for longer (uvicorn by itself after 5 s), as HTTP lets them


@dataclass(slots=True)
class Wire:
    """Connections to one server, kept for a while and used again."""

    url: str
    clock: Callable[[], float] = time.monotonic
    _idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, place: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer, which may come before the body was taken."""
        reader, writer = self._kept() or await self._connected()
        lines = (f"POST {place} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
        writer.write("\r\n".join((*lines, "\r\n")).encode() + body)
        async with asyncio.timeout(LONGEST_S):
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", answer)
            content = await reader.readexactly(int(length[1])) if length else b""
        if b"connection: close" in answer or writer.transport.get_write_buffer_size():
            writer.transport.abort()
        else:
            self._idle.append((self.clock(), reader, writer))
        return int(answer.split(b" ", 2)[1]), content

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection that was used last; those that were idle for too long are let go."""
        if self._idle:
            since, reader, writer = self._idle.pop()
            if self.clock() - since < KEPT_S:
                return reader, writer
            writer.transport.abort()
            self.close()  # the others have been idle for longer
        return None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        there = urlsplit(self.url)
        return await asyncio.open_connection(there.hostname, there.port)

    def close(self) -> None:
        """Let go of all connections."""
        for _, _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()

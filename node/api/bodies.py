"""Request bodies with a limit of bytes and of time: refused by what they declare, and again while they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request

from node.api.errors import TooLarge, TooSlow
from registry.errors import BadData

BODY_S: Final = 60.0


def bounded_body(max_bytes: int, body_s: float | None = None) -> Callable[[Request], Awaitable[bytes]]:
    """A dependency that gives the whole body of a request, come within `body_s`, by default BODY_S (H6).

    Raises TooLarge or TooSlow.
    """

    async def read(request: Request) -> bytes:
        limit_s = BODY_S if body_s is None else body_s
        declared = request.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdecimal()):
            raise BadData("Content-Length is not a number")
        if len(declared) > 18 or int(declared) > max_bytes:
            raise TooLarge(f"the body has {declared[:20]} bytes, {max_bytes} are allowed", "send less")
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for piece in request.stream():
                    body += piece
                    if len(body) > max_bytes:
                        raise TooLarge(f"the body has more than the {max_bytes} bytes that are allowed", "send less")
        except TimeoutError:
            raise TooSlow(f"the body did not come within {limit_s:g} s", "send it again") from None
        return bytes(body)

    return read

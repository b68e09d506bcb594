"""`/mcp`: the tools of this node over the Model Context Protocol's streamable HTTP, for the holders of keys.

Each request stands alone: no sessions, no streams, so nothing is kept between two of them. The protocol's package takes
a second to import, so that is left to the first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from fastapi import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.api.openai.access import only_holders, tenant_of
from node.context import Node
from node.desk import Desk
from node.recommending import Shelf
from node.tools import Bench

PLACE: Final = "/mcp"
REQUEST_S: Final = 120.0  # that a request takes at most, its body included


def mcp_route(node: Node, keys: Sequence[str], now: Callable[[], datetime]) -> Route:
    """The route; without keys it answers to this machine alone."""
    return Route(PLACE, _Door(node, keys, now), methods=["POST"])


class _Door:
    """An ASGI application that answers one request with a server of its own."""

    def __init__(self, node: Node, keys: Sequence[str], now: Callable[[], datetime]) -> None:
        self._node, self._now = node, now
        self._check = only_holders(keys)
        self._with_keys = bool(keys)
        self._shelf = Shelf(node)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Unauthorized."""
        request = Request(scope)
        self._check(request)
        bench = Bench(Desk(self._node, tenant_of(request), from_outside=True, now=self._now), self._shelf)
        answer = await asyncio.to_thread(_imported)
        async with asyncio.timeout(REQUEST_S):
            await answer(bench, scope, receive, send, from_pages=self._with_keys)


def _imported() -> Callable[..., Awaitable[None]]:
    from node.mcp import answer

    return answer

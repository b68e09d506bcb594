"""`Mountable`: started models as an application for somebody else's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from starlette.types import ASGIApp, Receive, Scope, Send


class Mountable:
    """An ASGI application over started models. `close` it at the end, or use it as a context manager.

    A server tells a mounted application neither that it starts nor that it ends, so the models are loaded before.
    """

    def __init__(self, app: ASGIApp, close: Callable[[], None]) -> None:
        self._app = app
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        await self._app(scope, receive, send)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

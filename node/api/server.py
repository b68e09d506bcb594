"""The server around the application: uvicorn with limits on connections and on the time that a request head takes."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.api.errors import error_body

HEAD_S: Final = 15.0
HEAD_BYTES: Final = 16 << 10
UNWANTED_BYTES: Final = 16 << 20  # several times what a body may have: most who send too much hear why
CONNECTIONS: Final = 512


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 with limits where uvicorn's waits and reads on.

    It closes a connection on which no whole request head has come in time (H7), or on which a body goes on after it was
    answered (H6).
    """

    head_s: float = HEAD_S
    _head_timer: asyncio.TimerHandle | None = None
    _unwanted: int = 0  # bytes of a request that came after its answer

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        super().connection_made(transport)
        if (connection := transport.get_extra_info("socket")) is not None:
            # asyncio does so for sockets that it bound itself; else each answer waits 40 ms for an acknowledgement
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; of a body that was answered before its end, so many that the answer can be read."""
        super().data_received(data)
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self._unwanted += len(data)
            if self._unwanted > UNWANTED_BYTES and not self.transport.is_closing():
                self.transport.close()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._unwanted = 0
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.head_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


class HeadLimit:
    """ASGI middleware that refuses a long head that came at once (H7); h11 counts only what is incomplete."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state = getattr(app, "state", None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count, refuse or pass on."""
        if scope["type"] == "http" and _head_bytes(scope) > HEAD_BYTES:
            said = error_body(f"the head has more than {HEAD_BYTES} bytes", "send less", "too_large", 413)
            await JSONResponse(said, 413)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _head_bytes(scope: Scope) -> int:
    """The bytes of a request's line and fields, without what parts them."""
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope["raw_path"]) + len(scope["query_string"])


class Server(uvicorn.Server):
    """uvicorn's, but it says when it listens, and tells streams that have no end to end before it waits for answers."""

    on_listening: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As usual, then say so."""
        await super().startup(sockets)
        if self.started and self.on_listening is not None:
            self.on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then as usual."""
        state = getattr(self.config.app, "state", None)
        if (end_streams := getattr(state, "end_streams", None)) is not None:
            await end_streams()
        await super().shutdown(sockets)


def make_server(
    app: FastAPI, host: str, port: int, drain_s: float = 10.0, tls: tuple[Path, Path] | None = None
) -> Server:
    """A server that is ready to `run()` (H8); set `should_exit` to end it. It logs as the caller set `logging` up.

    `tls` are the files of a certificate and its key.
    When it ends, it takes no new connections, and answers that are on their way get `drain_s`.
    """
    return Server(
        uvicorn.Config(
            HeadLimit(app),
            host=host,
            port=port,
            http=PunctualProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=math.ceil(HEAD_S),  # not the 5 s of clients of httpx: they may send at that moment
            timeout_graceful_shutdown=math.ceil(drain_s),
            h11_max_incomplete_event_size=HEAD_BYTES,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )
    )


async def until_told(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, and return: whoever called has things to close. Under `asyncio.run`.

    `sockets` listen already. uvicorn raises the signal that ended it once more, when its own handlers are gone; SIGTERM
    would end the process.
    """
    with _terminated_as_interrupted():
        await server.serve(sockets)
        with suppress(asyncio.CancelledError):  # what the handler of asyncio.run makes of SIGINT
            await asyncio.sleep(0)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM does what SIGINT does here, so that both ends are orderly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

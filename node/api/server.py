"""The server around the application: uvicorn with limits on connections and on the time that a request head takes."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S: Final = 15.0
HEAD_BYTES: Final = 16 << 10
CONNECTIONS: Final = 512


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole request head has come in time (H7); uvicorn's waits."""

    head_s: float = HEAD_S
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        super().connection_made(transport)
        if (connection := transport.get_extra_info("socket")) is not None:
            # asyncio does so for sockets that it bound itself; else each answer waits 40 ms for an acknowledgement
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._await_head()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
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


def make_server(app: FastAPI, host: str, port: int, drain_s: float = 10.0) -> uvicorn.Server:
    """A server that is ready to `run()` (H8); set `should_exit` to end it. It logs as the caller set `logging` up.

    When it ends, it takes no new connections, and answers that are on their way get `drain_s`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
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
            timeout_keep_alive=5,
            timeout_graceful_shutdown=math.ceil(drain_s),
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
    )

"""One id, one line and one count for each request.

The id is the asker's `X-Request-Id` where it sends a sound one, else a new one; it goes back with the answer and
stands in every line that is logged while the request is worked on. Neither bodies nor keys are written down.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.metrics import HttpMetrics
from node.logs import request_id

log = logging.getLogger(__name__)

HEADER: Final = "X-Request-Id"
SOUND: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Journal:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        identity = given if SOUND.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        token = request_id.set(identity)
        began, status = self._clock(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = identity
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._note(scope, status, self._clock() - began)
            request_id.reset(token)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.count(route, method, status, seconds)
        facts = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        log.info("%s %s %d", method, route, status, extra={"facts": facts})

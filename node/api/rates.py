"""What one address may ask for: requests per second and at a time, and seconds to take in a piece of an answer.

The wire is watched here, before anything else runs; what a key may send is limited by `sync.inbox`. Requests to models
have limits of their own: one address is often many users, their answers take long, and the engine's queue has an end.
An answer may stream for as long as it likes: the time is that of a piece.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.errors import error_body


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits of one address."""

    requests_per_s: float = 50.0
    burst: int = 400
    at_a_time: int = 32
    piece_s: float = 60.0
    addresses: int = 10_000


MODELS: Final = Rates(requests_per_s=1_000.0, burst=4_000, at_a_time=384)


class RateLimit:
    """ASGI middleware that answers 429 to an address that asks for too much (H8, H9).

    Places that begin with one of `model_places` are counted apart, by the limits `models`.
    """

    def __init__(
        self,
        app: ASGIApp,
        rates: Rates,
        models: Rates = MODELS,
        model_places: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._peers = _Addresses(rates, clock)
        self._models = _Addresses(models, clock)
        self._model_places = model_places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count, refuse or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = self._models if scope["path"].startswith(self._model_places) else self._peers
        address = scope["client"][0] if scope.get("client") else ""
        if not known.enter(address):
            await _refuse(send)
            return

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(known.rates.piece_s):
                await send(message)

        try:
            await self._app(scope, receive, send_in_time)
        finally:
            known.leave(address)


class _Addresses:
    """What the addresses have asked for lately, and what of it still runs."""

    def __init__(self, rates: Rates, clock: Callable[[], float]) -> None:
        self.rates = rates
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> requests left, when
        self._running: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Whether an address may begin a request now; one that may has to `leave`."""
        if not self._take(address) or self._running[address] >= self.rates.at_a_time:
            return False
        self._running[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A request has ended."""
        self._running[address] -= 1
        if not self._running[address]:
            del self._running[address]

    def _take(self, address: str) -> bool:
        """Take one request out of the bucket of an address, which fills at a steady rate."""
        now = self._clock()
        left, since = self._buckets.pop(address, (float(self.rates.burst), now))
        left = min(float(self.rates.burst), left + (now - since) * self.rates.requests_per_s)
        self._buckets[address] = (max(0.0, left - 1), now)
        if len(self._buckets) > self.rates.addresses:
            self._buckets.popitem(last=False)
        return left >= 1


async def _refuse(send: Send) -> None:
    body = json.dumps(
        error_body("too many requests from this address", "wait a second", "too_many_requests", 429)
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": [*headers, (b"retry-after", b"1")]})
    await send({"type": "http.response.body", "body": body})

"""/v1/hints: says that something was decided here, to whoever listens, as server-sent events.

What was decided, and about whom, is not said: the kind alone goes out, and whoever is concerned asks. The decisions
are looked up in the database, since commands in other processes make them too; all listeners share one look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from node.context import Node
from registry.errors import LocalFailure
from registry.store import func, select
from registry.tables import DecisionRow
from sync.hints import HINTS_PATH, STREAM_S
from sync.inbox import Busy

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
MAX_LISTENERS: Final = 200
MAX_NEWS: Final = 1_000  # decisions of one look

# The beginning of a decision's kind -> what is said of it. The arrows between are nobody else's business.
KINDS: Final = {
    "release.": "release",
    "update.accepted": "verdict",
    "update.quarantined": "verdict",
    "update.rejected": "verdict",
    "update.released": "verdict",
    "update.undone": "verdict",
    "enrolled": "key",
    "revoked": "key",
    "key.": "key",
}


class HintBoard:
    """Tells listeners of new decisions; used in the server's event loop alone."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._listeners: list[set[str]] = []  # what each has not been told yet
        self._changed = asyncio.Condition()
        self._ready = asyncio.Event()  # from now on nothing is missed
        self._looking: asyncio.Task[None] | None = None
        self.ended = False

    def admit(self) -> None:
        """Raise Busy where too many listen."""
        if self.ended or len(self._listeners) >= MAX_LISTENERS:
            raise Busy(f"{len(self._listeners)} nodes listen already", "ask GET /v1/heads from time to time")

    async def hints(self) -> AsyncIterator[str]:
        """What is said, until the listener leaves, the node ends or an hour has passed; "hello" comes first."""
        news = {"hello"}
        self._listeners.append(news)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        try:
            await self._ready.wait()
            async for kind in self._told(news):
                yield kind
        finally:
            self._listeners = [one for one in self._listeners if one is not news]
            if not self._listeners and self._looking is not None:
                self._looking.cancel()
                self._looking = None
                self._ready.clear()

    async def end(self) -> None:
        """Let every stream end."""
        self.ended = True
        self._ready.set()
        async with self._changed:
            self._changed.notify_all()

    async def _told(self, news: set[str]) -> AsyncIterator[str]:
        clock = asyncio.get_running_loop().time
        until = clock() + STREAM_S
        while not self.ended:
            try:
                async with asyncio.timeout_at(until), self._changed:
                    await self._changed.wait_for(lambda: news or self.ended)
            except TimeoutError:
                return
            told = sorted(news)
            news.clear()
            for kind in told:
                yield kind

    async def _look_on(self) -> None:
        seen = await asyncio.to_thread(self._newest)
        self._ready.set()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                seen, kinds = await asyncio.to_thread(self._look, seen)
            except LocalFailure as error:  # a database that is away may come back
                log.warning("hints: %s", error.message)
                continue
            if kinds:
                async with self._changed:
                    for news in self._listeners:
                        news.update(kinds)
                    self._changed.notify_all()

    def _newest(self) -> int:
        with self._node.store.read() as session:
            return session.scalar(select(func.max(DecisionRow.id))) or 0

    def _look(self, seen: int) -> tuple[int, set[str]]:
        """The newest decision, and what is said of those since `seen`."""
        wanted = select(DecisionRow.id, DecisionRow.kind).where(DecisionRow.id > seen).order_by(DecisionRow.id)
        with self._node.store.read() as session:
            rows = session.execute(wanted.limit(MAX_NEWS)).all()
        kinds = {said for _, kind in rows for start, said in KINDS.items() if kind.startswith(start)}
        return (rows[-1][0] if rows else seen), kinds


def hint_routes(board: HintBoard) -> APIRouter:
    """`/v1/hints`."""
    routes = APIRouter()

    @routes.get(HINTS_PATH, response_class=EventSourceResponse, dependencies=[Depends(board.admit)])
    async def hints() -> AsyncIterator[ServerSentEvent]:
        """A stream of `hello`, then `release`, `verdict` and `key`: something of that kind was decided here (S1)."""
        async for kind in board.hints():
            yield ServerSentEvent(event=kind, data={})

    return routes

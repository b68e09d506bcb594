"""A real HTTP server on a free port that answers as a test scripts it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

END_S = 30.0
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Seen:
    """A request as it arrived; `left` is set when its client went away before the answer was whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    left: threading.Event = field(default_factory=threading.Event)


@dataclass
class Reply:
    """An answer: pieces of a body, sent one by one; `endless` keeps the connection open after them."""

    status: int = 200
    pieces: tuple[bytes, ...] = ()
    type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    endless: bool = False
    cut: bool = False  # break the connection instead of ending the answer


def json_reply(document: Any, status: int = 200, **headers: str) -> Reply:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, (json.dumps(document).encode(),), headers=named)


def events(*documents: Any, done: bool = True, **more: Any) -> Reply:
    pieces = tuple(b"data: " + json.dumps(one).encode() + b"\n\n" for one in documents)
    return Reply(200, pieces + ((b"data: [DONE]\n\n",) if done else ()), "text/event-stream; charset=utf-8", **more)


class ScriptedServer:
    """Answers each request with the next of `replies`, the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.seen: list[Seen] = []
        self.url = ""

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
    ) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = Seen(scope["method"], scope["path"], headers, json.loads(body) if body else None)
        self.seen.append(seen)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        named = [(b"content-type", reply.type.encode()), *((a.encode(), b.encode()) for a, b in reply.headers)]
        await send({"type": "http.response.start", "status": reply.status, "headers": named})
        for piece in reply.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if reply.endless:
            assert (await receive())["type"] == "http.disconnect"
            seen.left.set()
            return
        if not reply.cut:
            await send({"type": "http.response.body", "body": b""})


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    app = ScriptedServer()
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield app
        finally:
            server.should_exit = True
            thread.join(END_S)
            assert not thread.is_alive()

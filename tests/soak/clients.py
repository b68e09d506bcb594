"""Clients of every temper: those that ask and read, that leave, that dawdle, that send what is no request at all."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from tests.soak.questions import Question

LONGEST_S: Final = 90.0  # three times what the server lets a request wait; after it, a request counts as stuck
THINK_S: Final = 0.03  # on average, between two things that a client does
BUSY_S: Final = 0.3  # the same, where somebody was told to come again
COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
BUSY: Final = (429, 503)
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"kind": {"enum": ["card", "loan"]}, "open": {"type": "boolean"}},
    "required": ["kind", "open"],
    "additionalProperties": False,
}
WRONG_BODIES: Final[tuple[dict[str, Any], ...]] = (
    {"n": 10**9},
    {"max_tokens": -1},
    {"temperature": "hot"},
    {"messages": []},
    {"messages": [{"role": "user", "content": "hello " * 20_000}]},
    {"model": "nobody"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
    {"nonsense": True},
    {"logit_bias": {"99999999": 1}},
    {"stop": [""] * 100},
)


@dataclass(slots=True)
class Found:
    """What clients did and saw: `counts` by kind, `busy` refusals of what was in order, `problems` in words."""

    counts: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Client:
    """One client, that does one thing after the other."""

    http: httpx.AsyncClient
    questions: Sequence[Question]
    source: random.Random
    found: Found
    think_s: float = THINK_S

    async def act(self) -> None:
        """One random thing, all of it within bounds; what is wrong is noted."""
        weights = [weight for _, weight in KINDS.values()]
        kind = self.source.choices(list(KINDS), weights)[0]
        self.found.counts[kind] += 1
        self.think_s = THINK_S
        try:
            async with asyncio.timeout(LONGEST_S):
                await KINDS[kind][0](self)
        except TimeoutError:
            self.note(f"{kind}: stuck, no end within {LONGEST_S:g} s")
        except (httpx.HTTPError, ConnectionError, asyncio.IncompleteReadError) as error:
            self.note(f"{kind}: {type(error).__name__}: {error!s:.200}")
        await asyncio.sleep(self.source.expovariate(1 / self.think_s))

    def note(self, problem: str) -> None:
        """Something that must not be."""
        self.found.problems.append(problem)

    def asked(self) -> tuple[Question, dict[str, Any]]:
        """A question, and its request."""
        one = self.source.choice(self.questions)
        body = {"model": one.model, "prompt": one.prompt, "max_tokens": one.new, "temperature": 0, "ignore_eos": True}
        return one, body

    def chat(self, **changes: Any) -> dict[str, Any]:
        """A short conversation with something else about it."""
        model = self.source.choice(self.questions).model
        words = f"hello {self.source.random()}"
        return {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": 60} | changes

    def fine(self, reply: httpx.Response) -> bool:
        """Whether something in order was answered; that the server had too much to do is nobody's fault."""
        if reply.status_code in BUSY:
            self.found.busy += 1
            self.think_s = BUSY_S
        elif reply.status_code != 200:
            self.note(f"a request in order got {reply.status_code}: {reply.text[:200]}")
        return reply.status_code == 200

    def check(self, one: Question, text: str) -> None:
        """Note a wrong answer."""
        if text != one.answer:
            self.note(f"wrong answer of {one.model}: {text!r:.120} instead of {one.answer!r:.120}")

    async def ask(self) -> None:
        """A question, its whole answer."""
        one, body = self.asked()
        reply = await self.http.post(COMPLETIONS, json=body)
        if self.fine(reply):
            self.check(one, reply.json()["choices"][0]["text"])

    async def ask_for_two(self) -> None:
        """Two greedy answers of one request are the same."""
        one, body = self.asked()
        reply = await self.http.post(COMPLETIONS, json=body | {"n": 2})
        if self.fine(reply):
            for choice in reply.json()["choices"]:
                self.check(one, choice["text"])

    async def stream(self, pause_s: float = 0.0) -> None:
        """A question, its answer piece by piece; the last event says that it is whole."""
        one, body = self.asked()
        pieces: list[str] = []
        last = ""
        async with self.http.stream("POST", COMPLETIONS, json=body | {"stream": True}) as reply:
            if reply.status_code != 200:
                await reply.aread()
                self.fine(reply)
                return
            async for line in reply.aiter_lines():
                last = line.removeprefix("data: ") or last
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        self.note(f"a stream ended with {event['error']!r:.200}")
                        return
                    pieces += [choice["text"] for choice in event["choices"]]
                await asyncio.sleep(pause_s)
        if last != "[DONE]":
            self.note(f"a stream ended with {last!r:.100}")
        self.check(one, "".join(pieces))

    async def dawdle(self) -> None:
        """The same, read slowly."""
        await self.stream(pause_s=0.05)

    async def leave_a_stream(self) -> None:
        """Go away after a few pieces."""
        _, body = self.asked()
        body |= {"stream": True, "max_tokens": 400}
        left = self.source.randint(1, 5)
        async with self.http.stream("POST", COMPLETIONS, json=body) as reply:
            async for _ in reply.aiter_lines():
                left -= 1
                if not left:
                    return

    async def give_up(self) -> None:
        """Go away before there is an answer."""
        _, body = self.asked()
        with suppress(httpx.TimeoutException):
            await self.http.post(
                COMPLETIONS, json=body | {"max_tokens": 400, "n": 3}, timeout=self.source.uniform(0.01, 0.3)
            )

    async def follow_a_schema(self) -> None:
        """An answer that has to be JSON of a kind."""
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
        reply = await self.http.post(CHAT, json=self.chat(response_format=wanted))
        if self.fine(reply):
            text = reply.json()["choices"][0]["message"]["content"]
            if json.loads(text).keys() != SCHEMA["properties"].keys():
                self.note(f"an answer leaves its schema: {text!r:.200}")

    async def sample(self) -> None:
        """Everything about sampling at once."""
        body = self.chat(temperature=1.3, top_p=0.9, seed=self.source.getrandbits(30), n=self.source.randint(1, 4))
        body |= {
            "max_tokens": self.source.randint(1, 400),
            "presence_penalty": 0.5,
            "logprobs": True,
            "top_logprobs": 3,
            "stop": ["xyz"],
        }
        self.fine(await self.http.post(CHAT, json=body))

    async def embed(self) -> None:
        """Vectors."""
        one = self.source.choice(self.questions)
        self.fine(await self.http.post("/v1/embeddings", json={"model": one.model, "input": [one.prompt, "x"]}))

    async def look(self) -> None:
        """What those ask that watch over a server."""
        for place in ("/health", "/ready", "/metrics", "/v1/models"):
            self.fine(await self.http.get(place))

    async def ask_wrongly(self) -> None:
        """A request that cannot be answered is refused, and says why."""
        body = self.chat(**self.source.choice(WRONG_BODIES))
        reply = await self.http.post(CHAT, json=body)
        if reply.status_code not in (400, 404, *BUSY) or not reply.json()["error"]["message"]:
            self.note(f"{json.dumps(body)[:100]} got {reply.status_code}: {reply.text[:200]}")

    async def send_garbage(self) -> None:
        """Bytes that are no JSON, in the body."""
        data = self.source.randbytes(self.source.randint(0, 2_000))
        reply = await self.http.post(CHAT, content=data)
        if reply.status_code not in (400, *BUSY):
            self.note(f"garbage got {reply.status_code}: {reply.text[:200]}")

    async def send_too_much(self) -> None:
        """A body of 10 MB; the server need not take it all."""
        answer = await self._raw(_head(10_000_000) + b"x" * 10_000_000)
        if answer and b" 413 " not in answer[:20] and b" 429 " not in answer[:20]:
            self.note(f"10 MB got {answer[:100]!r}")

    async def send_noise(self) -> None:
        """Bytes that are no HTTP."""
        answer = await self._raw(self.source.randbytes(300) + b"\r\n\r\n")
        if answer and b" 400 " not in answer[:20]:
            self.note(f"noise got {answer[:100]!r}")

    async def hang_up(self) -> None:
        """A part of a request, then nothing more."""
        whole = _head(500) + b'{"model": "base"'
        await self._raw(whole[: self.source.randint(1, len(whole))], wait=False)

    async def _raw(self, data: bytes, *, wait: bool = True) -> bytes:
        """Send bytes as they are; what came back, nothing where the server closed the connection."""
        there = urlsplit(str(self.http.base_url))
        reader, writer = await asyncio.open_connection(there.hostname, there.port)
        answer = b""
        try:
            with suppress(ConnectionError):
                writer.write(data)
                if wait:
                    answer = await reader.read(4_096)
                else:
                    await writer.drain()
        finally:
            writer.transport.abort()
        return answer


def _head(length: int) -> bytes:
    lines = (f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join((*lines, "\r\n")).encode()


# What clients do, and how often.
KINDS: Final[dict[str, tuple[Callable[[Client], Awaitable[None]], int]]] = {
    "ask": (Client.ask, 12),
    "ask for two": (Client.ask_for_two, 3),
    "stream": (Client.stream, 12),
    "dawdle": (Client.dawdle, 2),
    "leave a stream": (Client.leave_a_stream, 6),
    "give up": (Client.give_up, 6),
    "follow a schema": (Client.follow_a_schema, 3),
    "sample": (Client.sample, 3),
    "embed": (Client.embed, 2),
    "look": (Client.look, 1),
    "ask wrongly": (Client.ask_wrongly, 4),
    "send garbage": (Client.send_garbage, 2),
    "send too much": (Client.send_too_much, 1),
    "send noise": (Client.send_noise, 1),
    "hang up": (Client.hang_up, 2),
}

"""A small client of `node start`: `Client`, and `AsyncClient` for use with await.

    from node.client import Client
    with Client("http://127.0.0.1:8420") as client:
        print(client.chat("What is my balance?", temperature=0).text)
        for piece in client.chat_stream("Tell me more."):
            print(piece.text, end="")

Each call is described once, as a value (`Call`): what is sent, and how the reply is read. The two clients are the two
ways of sending one. Errors: BadData where the request is at fault, LocalFailure where the server or the way to it is.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, Self, TypedDict, TypeVar, Unpack

import httpx

from node.client_replies import Call, Reply, explained

CONNECT_S: Final = 10.0

Message = Mapping[str, str]  # role and content
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `cached_tokens` of the prompt's needed no computation."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and why it ended: `stop` by itself, `length` at a limit."""

    model: str
    text: str
    finish: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer; the last one has `finish` and `usage`."""

    text: str
    finish: str | None = None
    usage: Usage | None = None


class Settings(TypedDict, total=False):
    """How an answer is made, where it shall differ from what the server was started with."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    json_schema: Mapping[str, Any]


def chat(asked: str | Sequence[Message], *, model: str = "", **settings: Unpack[Settings]) -> Call[Answer]:
    """The answer to a question, or the next turn of a conversation."""
    return Call("/chat", _question(asked, model, settings), _answer)


def chat_stream(asked: str | Sequence[Message], *, model: str = "", **settings: Unpack[Settings]) -> Call[Piece]:
    """The same, piece by piece as they come. Leaving the loop ends the work at the server."""
    return Call("/chat-sse", _question(asked, model, settings), _piece)


def complete(prompt: str, *, model: str = "", **settings: Unpack[Settings]) -> Call[Answer]:
    """The continuation of a text."""
    return Call("/complete", {"model": model, "prompt": prompt, **settings}, _answer)


def embed(texts: Sequence[str], *, model: str = "") -> Call[list[list[float]]]:
    """One vector of length 1 for each text."""
    return Call("/embed", {"model": model, "texts": list(texts)}, _vectors)


def _question(asked: str | Sequence[Message], model: str, settings: Settings) -> dict[str, Any]:
    what = {"prompt": asked} if isinstance(asked, str) else {"messages": [dict(turn) for turn in asked]}
    return {"model": model, **what, **settings}


def _answer(value: Any) -> Answer:
    return Answer(value["model"], value["text"], value["finish"], Usage(**value["usage"]))


def _piece(value: Any) -> Piece:
    usage = value.get("usage")
    return Piece(value["text"], value.get("finish"), Usage(**usage) if usage else None)


def _vectors(value: Any) -> list[list[float]]:
    return [[float(number) for number in vector] for vector in value["vectors"]]


def _sent(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(make)
    def method(self: Client, /, *given: P.args, **named: P.kwargs) -> T:
        return self.send(make(*given, **named))

    return method


def _streamed(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @functools.wraps(make)
    def method(self: Client, /, *given: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        return self.stream(make(*given, **named))

    return method


def _awaited(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(make)
    def method(self: AsyncClient, /, *given: P.args, **named: P.kwargs) -> Awaitable[T]:
        return self.send(make(*given, **named))

    return method


def _streamed_async(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]:
    @functools.wraps(make)
    def method(self: AsyncClient, /, *given: P.args, **named: P.kwargs) -> AsyncGenerator[T, None]:
        return self.stream(make(*given, **named))

    return method


class Client:
    """A server at `url`; `timeout_s` is the longest silence that is waited through, `api_key` where it wants one."""

    def __init__(self, url: str, *, api_key: str = "", timeout_s: float = 120.0) -> None:
        self._http = httpx.Client(**_options(url, api_key, timeout_s))

    chat = _sent(chat)
    chat_stream = _streamed(chat_stream)
    complete = _sent(complete)
    embed = _sent(embed)

    def send(self, call: Call[T]) -> T:
        """Send a call and wait for its whole reply. Raises BadData, LocalFailure."""
        with explained(self._http.base_url), self._http.stream("POST", call.place, json=call.body) as response:
            data = Reply()
            for piece in response.iter_bytes():
                data.add(piece)
            return data.whole(call, response)

    def stream(self, call: Call[T]) -> Generator[T, None, None]:
        """Send a call and give its reply piece by piece. Raises the same."""
        with explained(self._http.base_url), self._http.stream("POST", call.place, json=call.body) as response:
            data = Reply()
            for piece in response.iter_bytes():
                data.add(piece)
                if response.is_success:
                    yield from data.events(call)
            data.end(response)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same with await."""

    def __init__(self, url: str, *, api_key: str = "", timeout_s: float = 120.0) -> None:
        self._http = httpx.AsyncClient(**_options(url, api_key, timeout_s))

    chat = _awaited(chat)
    chat_stream = _streamed_async(chat_stream)
    complete = _awaited(complete)
    embed = _awaited(embed)

    async def send(self, call: Call[T]) -> T:
        """Send a call and wait for its whole reply. Raises BadData, LocalFailure."""
        with explained(self._http.base_url):
            async with self._http.stream("POST", call.place, json=call.body) as response:
                data = Reply()
                async for piece in response.aiter_bytes():
                    data.add(piece)
                return data.whole(call, response)

    async def stream(self, call: Call[T]) -> AsyncGenerator[T, None]:
        """Send a call and give its reply piece by piece. Raises the same."""
        with explained(self._http.base_url):
            async with self._http.stream("POST", call.place, json=call.body) as response:
                data = Reply()
                async for piece in response.aiter_bytes():
                    data.add(piece)
                    if response.is_success:
                        for event in data.events(call):
                            yield event
                data.end(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _options(url: str, api_key: str, timeout_s: float) -> dict[str, Any]:
    # Compressed replies could unfold without end.
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
    return {"base_url": url, "headers": headers, "timeout": timeout, "follow_redirects": False}

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
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypedDict, TypeVar, Unpack

import httpx

from registry.errors import BadData, LocalFailure

MAX_REPLY_BYTES: Final = 256 << 20
CONNECT_S: Final = 10.0
REQUEST_ERRORS: Final = ("invalid_request_error", "authentication_error", "permission_error")

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


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is sent where, and how its reply is read (`read` raises on another reply)."""

    place: str
    body: Mapping[str, Any]
    read: Callable[[Any], T]


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
        with _explained(self._http.base_url), self._http.stream("POST", call.place, json=call.body) as response:
            data = _Bounded()
            for piece in response.iter_bytes():
                data.add(piece)
            return data.reply(call, response)

    def stream(self, call: Call[T]) -> Generator[T, None, None]:
        """Send a call and give its reply piece by piece. Raises the same."""
        with _explained(self._http.base_url), self._http.stream("POST", call.place, json=call.body) as response:
            data = _Bounded()
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
        with _explained(self._http.base_url):
            async with self._http.stream("POST", call.place, json=call.body) as response:
                data = _Bounded()
                async for piece in response.aiter_bytes():
                    data.add(piece)
                return data.reply(call, response)

    async def stream(self, call: Call[T]) -> AsyncGenerator[T, None]:
        """Send a call and give its reply piece by piece. Raises the same."""
        with _explained(self._http.base_url):
            async with self._http.stream("POST", call.place, json=call.body) as response:
                data = _Bounded()
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


class _Bounded:
    """The bytes of a reply that have come and not been read, and what they say."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False

    def add(self, piece: bytes) -> None:
        """Take in a piece; raises LocalFailure when it is too much."""
        self._data += piece
        if len(self._data) > MAX_REPLY_BYTES:
            raise LocalFailure(f"the reply has more than {MAX_REPLY_BYTES:,} bytes", "ask for less at a time")

    def reply(self, call: Call[T], response: httpx.Response) -> T:
        """The whole reply, read."""
        value = _value(self._data)
        _refuse_error(value, response)
        return _understood(call, value)

    def events(self, call: Call[T]) -> Iterator[T]:
        """The server-sent events that are complete; of each only its data, one line of JSON."""
        *lines, rest = self._data.split(b"\n")
        self._data = rest
        for line in lines:
            if line.startswith(b"data:"):
                value = _value(line.removeprefix(b"data:"))
                _refuse_error(value, None)
                self._ended = isinstance(value, dict) and value.get("finish") is not None
                yield _understood(call, value)

    def end(self, response: httpx.Response) -> None:
        """Raise unless a stream ended as it should."""
        if not response.is_success:
            _refuse_error(_value(self._data), response)
        if not self._ended:
            raise LocalFailure("the answer broke off", "ask again; the server's log says more")


def _options(url: str, api_key: str, timeout_s: float) -> dict[str, Any]:
    # Compressed replies could unfold without end.
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
    return {"base_url": url, "headers": headers, "timeout": timeout, "follow_redirects": False}


def _value(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _refuse_error(value: Any, response: httpx.Response | None) -> None:
    """Raise what a reply says went wrong: BadData for a status of the request's fault, else LocalFailure."""
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        kind = BadData if error.get("type") in REQUEST_ERRORS else LocalFailure
        raise kind(error["message"], str(error.get("hint") or ""))
    if response is not None and not response.is_success:
        raise LocalFailure(f"the server answered with status {response.status_code}", "is this the address of a node?")


def _understood(call: Call[T], value: Any) -> T:
    try:
        return call.read(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LocalFailure(
            f"the reply to {call.place} is not one of a node: {error!r:.80}", "is this the address of a node?"
        ) from error


@contextmanager
def _explained(url: httpx.URL) -> Iterator[None]:
    """What goes wrong on the way, in words."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise LocalFailure(f"{url} did not answer in time", "raise timeout_s, or ask for fewer tokens") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LocalFailure(f"{url} cannot be reached: {error}", "is it running? node start MODEL") from error

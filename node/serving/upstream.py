"""`UpstreamBackend`: another OpenAI-compatible server (vLLM, SGLang, llama-server, Ollama, a provider, a node) as ours.

Every wait and every read is bounded, also against a server that trickles or never ends. A request is sent again only
while nothing of its answer was seen. Leaving an iterator closes the connection, which is how such servers learn that
they can stop. What the server says about a request goes to the asker; the key goes to that server alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import httpx
import stamina
from httpx_sse import EventSource, SSEError
from pydantic import BaseModel, ValidationError

from node.serving.errors import Busy, Refused, Unavailable, UnknownModel
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    ModelInfo,
    Usage,
)
from node.serving.upstream_answers import ChatChunk, Models, TextChunk, Vectors
from node.serving.upstream_bodies import chat_body, completion_body, embedding_body
from node.serving.upstream_bounds import NORMAL, BoundedTransport, Limits
from registry.errors import BanyanError

logging.getLogger("stamina").addHandler(logging.NullHandler())  # a retry is no news for the terminal
logging.getLogger("httpx").setLevel(logging.WARNING)  # addresses of every request are none either

MAX_WORDS: Final = 300  # characters of what a server says that are passed on
AGAIN: Final = frozenset({429, 500, 502, 503, 504, 529})
DONE: Final = "[DONE]"
M = TypeVar("M", bound=BaseModel)


class _Again(Exception):  # noqa: N818  not an error of ours: a reason to try once more
    """The server could not take the request now; `error` is what the asker is told in the end."""

    def __init__(self, error: BanyanError, wait_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait_s = wait_s


class UpstreamBackend:
    """A `Backend` that asks another server: `base_url` as its clients write it, mostly with `/v1`; `key` if it has any.

    `clock` gives seconds. Used in one event loop; `aclose` when done.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        limits: Limits = NORMAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = base_url.rstrip("/")
        self.limits = limits
        self._clock = clock
        headers = {"Accept-Encoding": "identity"}  # compressed answers could unfold without end
        if key:
            headers["Authorization"] = f"Bearer {key}"
        wait = httpx.Timeout(limits.read_s, connect=limits.connect_s)
        transport = BoundedTransport(limits, clock)
        self._client = httpx.AsyncClient(headers=headers, timeout=wait, transport=transport, follow_redirects=False)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        return self._pieces("chat/completions", chat_body(request), ChatChunk, request)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        return self._pieces("completions", completion_body(request), TextChunk, request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See Backend."""
        found = await self._whole("POST", "embeddings", Vectors, request.model, embedding_body(request))
        try:
            vectors = found.ordered(len(request.inputs))
        except ValueError as error:
            raise self._nonsense(error) from error
        return Embeddings(vectors, found.usage.prompt_tokens if found.usage else 0)

    async def models(self) -> list[ModelInfo]:
        """See Backend."""
        found = await self._whole("GET", "models", Models, "")
        return found.infos(httpx.URL(self.url).host)

    async def _pieces(
        self,
        path: str,
        body: Mapping[str, Any],
        kind: type[ChatChunk | TextChunk],
        request: ChatRequest | CompletionRequest,
    ) -> AsyncGenerator[Delta, None]:
        """Every piece as it comes. The last one waits for the usage, which servers send after it."""
        last: Delta | None = None
        usage: Usage | None = None
        ended: set[int] = set()
        async with (
            self._opened("POST", path, request.model, body) as response,
            aclosing(self._events(response)) as events,
        ):
            async for data in events:
                chunk = self._read(kind, data)
                if chunk.error is not None:
                    raise Unavailable(f"{self.url} broke off: {_words(chunk.error)}", "try again")
                usage = chunk.counted() or usage
                for delta in chunk.deltas():
                    if last is not None:
                        yield last
                    last = delta if delta.finish is not None else None
                    ended |= {delta.index} if last is not None else set()
                    if last is None and delta != Delta(delta.index):
                        yield delta
        if last is None or len(ended) < request.n:
            raise Unavailable(f"{self.url} ended its answer early", "try again")
        yield replace(last, usage=usage)

    async def _events(self, response: httpx.Response) -> AsyncGenerator[str, None]:
        """The data of every event up to the last one."""
        try:
            async with aclosing(EventSource(response).aiter_sse()) as events:
                async for event in events:
                    if event.data == DONE:
                        return
                    if event.data:
                        yield event.data
        except SSEError as error:
            raise self._nonsense(error) from error

    async def _whole(
        self, method: str, path: str, kind: type[M], model: str, body: Mapping[str, Any] | None = None
    ) -> M:
        async with self._opened(method, path, model, body) as response:
            return self._read(kind, await response.aread())

    @asynccontextmanager
    async def _opened(
        self, method: str, path: str, model: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that began well. Tried again while there is none; what the network does becomes our errors."""
        async with AsyncExitStack() as stack:
            try:
                async for attempt in self._attempts():
                    with attempt:
                        response = await self._sent(method, path, model, body)
                stack.push_async_callback(response.aclose)
            except _Again as again:
                raise again.error from again
            try:
                yield response
            except httpx.HTTPError as error:
                raise Unavailable(f"{self.url} broke off: {_words(repr(error))}", "try again") from error

    def _attempts(self) -> AsyncIterator[stamina.Attempt]:
        def wait(error: Exception) -> bool | float:
            if not isinstance(error, _Again):
                return False
            return True if error.wait_s is None else error.wait_s

        limit = self.limits.attempts * (self.limits.connect_s + self.limits.read_s + self.limits.retry_after_s)
        retried = stamina.retry_context(wait, attempts=self.limits.attempts, timeout=limit, wait_max=2.0)
        return aiter(retried)

    async def _sent(self, method: str, path: str, model: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """The head of an answer of status 200. Raises _Again where another try may help, else what the server meant."""
        url = f"{self.url}/{path}"
        try:
            response = await self._client.send(self._client.build_request(method, url, json=body), stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise _Again(Unavailable(f"{url} cannot be reached: {_words(repr(error))}", "is it running?")) from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{url} does not answer: {_words(repr(error))}", "try again, or wait longer") from error
        encoding = response.headers.get("content-encoding", "identity")
        if response.status_code == httpx.codes.OK and encoding == "identity":
            return response
        try:
            raise await self._refusal(response, model)
        finally:
            await response.aclose()

    async def _refusal(self, response: httpx.Response, model: str) -> BanyanError | _Again:
        """What an answer that is not one means for the asker."""
        try:
            said = json.loads(await response.aread())
        except (ValueError, httpx.HTTPError, Unavailable):
            said = {}
        place = response.request.url.path
        error = self._meant(response.status_code, said if isinstance(said, dict) else {}, model, place)
        if response.status_code not in AGAIN:
            return error
        wait_s = _seconds(response.headers.get("retry-after", ""))
        return error if wait_s is not None and wait_s > self.limits.retry_after_s else _Again(error, wait_s)

    def _meant(self, status: int, said: Mapping[str, Any], model: str, place: str) -> BanyanError:
        own = said.get("error")
        told = own if isinstance(own, dict) else {}
        words = _words(told.get("message") or own or said.get("message") or said.get("detail") or "")
        if status == httpx.codes.NOT_FOUND and model:
            is_of_model = bool(own or said.get("message"))  # else the server has no such address
            hint = "ask a model of another server for that"
            return UnknownModel(model) if is_of_model else Refused("model", f"its server has no {place}", hint)
        if status in (400, 413, 422):
            field = told.get("param")
            return Refused(field if isinstance(field, str) else "request", words or "the server refused the request")
        if status in (401, 403):
            return Unavailable(f"{self.url} refuses our key", "give the upstream a key that it knows")
        if status in (408, 429):
            return Busy(f"{self.url} is busy: {words}", "try again in a while")
        return Unavailable(f"{self.url} answered {status}: {words}", "try again, or look at its log")

    def _read(self, kind: type[M], data: str | bytes) -> M:
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise self._nonsense(error) from error

    def _nonsense(self, error: Exception) -> Unavailable:
        words = _words(str(error))
        return Unavailable(f"{self.url} does not speak as OpenAI's API does: {words}", "check its address")


def _seconds(retry_after: str) -> float | None:
    """What a Retry-After header asks for, where it gives seconds; the form with a date is left to our own waits."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9 else None


def _words(said: object) -> str:
    """What a server says, on one line and not too long."""
    text = said.get("message", said) if isinstance(said, dict) else said
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_WORDS else f"{line[:MAX_WORDS]}…"

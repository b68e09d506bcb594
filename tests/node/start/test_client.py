from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from node.client import AsyncClient, Client
from node.started import Started
from registry.errors import BadData, LocalFailure

TEXT = "open an account"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_calls_and_streams(client: Client) -> None:
    whole = client.chat("hello", max_tokens=8, ignore_eos=True)
    assert whole.model == "tiny-llama"
    assert (whole.finish, whole.usage.completion_tokens) == ("length", 8)
    pieces = list(client.chat_stream([{"role": "user", "content": "hello"}], max_tokens=8, ignore_eos=True))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 8
    assert client.complete(TEXT, model="q", max_tokens=3).model == "q"
    assert [len(vector) for vector in client.embed(["one", "two"])] == [32, 32]


def test_the_async_client_says_the_same(client: Client, url: str) -> None:
    async def ask() -> tuple[str, str, str, int]:
        async with AsyncClient(url) as other:
            pieces = [piece.text async for piece in other.chat_stream("hello")]
            chat, complete = await asyncio.gather(other.chat("hello"), other.complete(TEXT))
            return "".join(pieces), chat.text, complete.text, len(await other.embed(["one"]))

    streamed, chat, complete, vectors = asyncio.run(ask())
    assert streamed == chat == client.chat("hello").text
    assert complete == client.complete(TEXT).text
    assert vectors == 1


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, str]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: str(method.__doc__) for name, method in found if not name.startswith("_")}

    assert calls(Client).keys() == calls(AsyncClient).keys() >= {"chat", "chat_stream", "complete", "embed"}


def test_errors_are_those_of_the_server(client: Client, url: str) -> None:
    with pytest.raises(BadData, match="not served here; did you mean tiny-llama") as refused:
        client.chat("hello", model="tiny-lama")
    assert refused.value.hint
    with pytest.raises(BadData, match="leaves no room"):
        list(client.chat_stream("word " * 999))
    with pytest.raises(BadData, match="temperature"):
        client.complete(TEXT, temperature=3.0)

    async def ask() -> None:
        async with AsyncClient(url) as other:
            await other.chat("hello", model="nobody")

    with pytest.raises(BadData, match="not served here"):
        asyncio.run(ask())


@contextmanager
def scripted(answer: bytes, hold: Callable[[], None] = lambda: None) -> Iterator[str]:
    """A server that sends these bytes to the first request, waits and closes."""
    with socket.create_server(("127.0.0.1", 0)) as bound:

        def serve() -> None:
            connection, _ = bound.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)
                hold()
                # Closed with a part of the request unread, TCP would throw the answer away.
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(10)
                while connection.recv(65_536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        thread.join(timeout=10)
    assert not thread.is_alive()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n<html>", "status 502"),
        (HEAD + b'{"text": "x"}', "not one of a node"),
        (HEAD + b"<html>", "not one of a node"),
        (HEAD + b"[" * 100_000, "not one of a node"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nConnection: close\r\n\r\n", "status 302"),
        (b"SSH-2.0\r\n", "cannot be reached"),
    ],
)
def test_a_server_of_another_kind_is_said(answer: bytes, message: str) -> None:
    with scripted(answer) as url, Client(url) as client, pytest.raises(LocalFailure, match=message):
        client.chat("hello")


def test_a_stream_that_breaks_off_or_fails_is_said() -> None:
    first = b'data: {"text": "a"}\n\n: a comment\n\n'
    with scripted(HEAD + first) as url, Client(url) as client:
        stream = client.chat_stream("hello")
        assert next(stream).text == "a"
        with pytest.raises(LocalFailure, match="broke off"):
            next(stream)
    failed = first + b'data: {"error": {"message": "it stopped", "hint": "h", "type": "server_error"}}\n\n'
    with scripted(HEAD + failed) as url, Client(url) as client, pytest.raises(LocalFailure, match="it stopped"):
        list(client.chat_stream("hello"))


def test_silence_and_absence_are_said() -> None:
    held = threading.Event()
    with scripted(b"", lambda: bool(held.wait(10)) and None) as url, Client(url, timeout_s=0.2) as client:
        with pytest.raises(LocalFailure, match="did not answer in time"):
            client.chat("hello")
        held.set()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(LocalFailure, match="cannot be reached"):
        client.embed(["x"])


def test_leaving_a_stream_ends_the_work(client: Client, models: Started) -> None:
    engine = models.engines["tiny-llama"]
    stream = client.chat_stream("hello", max_tokens=100, ignore_eos=True)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 30
    while engine.statistics().num_requests_running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.statistics().num_requests_running == 0

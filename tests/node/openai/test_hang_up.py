"""A client that goes away in the middle of its body is no mistake of the node's."""

from __future__ import annotations

import logging
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.node.openai.conftest import World

COUNTED_S = 30.0


def test_a_body_that_breaks_off_is_counted_and_no_mistake(world: World, caplog: pytest.LogCaptureFixture) -> None:
    there = urlsplit(world.url)
    before = gone(world)
    with caplog.at_level(logging.ERROR), socket.create_connection((there.hostname, there.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1_000)
        until = time.monotonic() + COUNTED_S
        while gone(world) == before:
            assert time.monotonic() < until
    assert gone(world) == before + 1
    assert caplog.records == []


def gone(world: World) -> float:
    """Requests whose client went away, as /metrics counts them."""
    lines = httpx.get(f"{world.url}/metrics").text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("banyan_http_requests_total") and 'status="499"' in line
    )

"""A peer that answers every request with bytes that never end, and counts how many were taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = bytes(1 << 18)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
LONGEST_S = 60.0


@dataclass
class EndlessPeer:
    """Its address, and the bytes that each connection took of it before it was closed."""

    url: str
    taken: list[int] = field(default_factory=list)


@contextmanager
def endless_peer() -> Iterator[EndlessPeer]:
    """Listen on a loopback port until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = EndlessPeer(f"http://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listening, peer), daemon=True).start()
        yield peer
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, peer: EndlessPeer) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, peer), daemon=True).start()


def _answer(connection: socket.socket, peer: EndlessPeer) -> None:
    connection.settimeout(LONGEST_S)
    sent = 0
    with connection, suppress(OSError):
        connection.recv(1 << 16)
        connection.sendall(HEAD)
        while True:
            sent += connection.send(PIECE)
    peer.taken.append(sent)

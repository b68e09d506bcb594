"""What a server really receives: a relay on loopback that keeps every byte of every connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Recorder:
    """A relay at `url`; `received` holds what each connection brought."""

    url: str
    received: list[bytearray] = field(default_factory=list)

    def requests(self) -> list[bytes]:
        return [bytes(connection) for connection in self.received if connection]


@contextmanager
def recording(url: str) -> Iterator[Recorder]:
    """Record everything that goes to the server at `url`."""
    host, _, port = url.removeprefix("http://").partition(":")
    listening = socket.create_server(("127.0.0.1", 0))
    recorder = Recorder(f"http://127.0.0.1:{listening.getsockname()[1]}")
    threads: list[threading.Thread] = []
    open_sockets: list[socket.socket] = []

    def relay(source: socket.socket, target: socket.socket, keep: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if keep is not None:
                    keep += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            open_sockets.extend((client, server))
            recorder.received.append(bytearray())
            for arguments in ((client, server, recorder.received[-1]), (server, client, None)):
                threads.append(threading.Thread(target=relay, args=arguments))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield recorder
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join(timeout=10)
        for one in open_sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(timeout=10)
        for one in (listening, *open_sockets):
            one.close()

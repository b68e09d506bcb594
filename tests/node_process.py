"""Serve the home of a node in a process of its own: `node_process.py HOME PORT`; prints its port once it listens."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from node.api.app import create_app
from node.api.server import make_server
from node.context import opened_node
from node.settings import Settings

if __name__ == "__main__":
    home, port = Path(sys.argv[1]), int(sys.argv[2])
    with opened_node(Settings(home=home)) as node, socket.create_server(("127.0.0.1", port)) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        make_server(create_app(node), "127.0.0.1", 0).run(sockets=[listening])

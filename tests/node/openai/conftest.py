"""A node with the bundled tree that serves its models on a loopback port, and the real client of the OpenAI API."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import openai
import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.api.server import make_server
from node.context import Node
from node.serving.models import Models
from node.starter import install_starter_tree
from tests.world import make_node


@dataclass(frozen=True)
class World:
    """A node, its models, and where they are served."""

    node: Node
    models: Models
    url: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    server = make_server(app, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("served") / "home"
    node = make_node(home, "master", threads=1, precision="fp32", cache_tokens=16_384)
    install_starter_tree(node)
    models = Models(node)
    with listening(create_app(node, models)) as url:
        yield World(node, models, url)
    models.close()
    node.close()


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=world.api, api_key="none", max_retries=0) as client:
        yield client

"""What many tests need: a fresh database, and servers on loopback ports.

Databases are SQLite, and PostgreSQL where `BANYAN_TEST_DATABASE_URL` names one.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI

from registry.store import Store, file_url
from tests.databases import SERVER, empty_schema

if TYPE_CHECKING:
    from sync.delta import Delta


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """What a test sets does not hold for the next one: with another number of threads a model's last bits differ."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(before or int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


@pytest.fixture(params=["sqlite", *(["postgresql"] if SERVER else [])])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; on PostgreSQL, an empty schema that goes away afterwards."""
    if request.param == "sqlite":
        yield file_url(tmp_path / "banyan.db")
        return
    assert SERVER is not None
    with empty_schema(SERVER) as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store on an empty database."""
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], str]]:
    """Serve applications with the real server on free loopback ports: `serve(app) -> url`."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL of an application, served by the real server on a free loopback port."""
    from node.api.server import make_server

    server = make_server(app, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"  # connections wait in the backlog until it runs
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Peers that speak no or bad HTTP: `answering(talk) -> url`, `talk` gets each connection."""
    with ExitStack() as stack:
        yield lambda talk: stack.enter_context(_talking(talk))


@contextmanager
def _talking(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connections.append(connection)
            try:
                talk(connection)
            except OSError:  # the other side has gone
                connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    thread.join(timeout=20)
    listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the toy model that knows `tests.toy.KNOWN`; trained once, in two seconds."""
    from tests.toy import make_base

    return make_base(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model with the same tokenizer that knows the same: what a graft runs."""
    from tests.toy import make_base

    return make_base(tmp_path_factory.mktemp("student"), hidden=48)


@pytest.fixture(scope="session")
def toy_adapters(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Delta]:
    """What two children learned over the toy model, by their path."""
    from sync.model import load_model
    from tests.toy import SHAPES, TOOLS, learn

    loaded = load_model(toy_base, [], "fp32")
    taught = {"en/shapes": SHAPES, "en/tools": TOOLS}
    return {path: learn(loaded, table, path, tmp_path_factory.mktemp("fit")) for path, table in taught.items()}


@pytest.fixture(scope="session")
def asking(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Delta:
    """What a child learned that trained on its prompts too, as `en/shapes`: such prompts can be sampled from it."""
    from dataclasses import replace

    from sync.model import load_model
    from sync.tokens import Example
    from sync.train import fit
    from tests.toy import KNOWN, PLAN, SHAPES, rows

    own = [Example(row, "en/shapes", asks=True) for row in rows(SHAPES, range(20))]
    known = [Example(row, path) for row in rows(KNOWN) for path in ("en", "en/shapes")]
    loaded = load_model(toy_base, [], "fp32")
    return fit(loaded, [*own, *known], [], replace(PLAN, prompt_loss=0.5), tmp_path_factory.mktemp("asking")).delta

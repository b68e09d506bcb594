"""`transformers serve`, a server that is not ours, as an upstream: its answers and its refusals."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils.import_utils import is_serve_available

from node.serving.errors import Refused, Unavailable
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    FinishReason,
    Message,
    Sampling,
)
from tests.benchmarks.serving.servers import Server
from tests.node.serving.asking import asked
from tests.node.start.conftest import greedy
from tests.node.tiny_models import save_tiny

NEW = 12
GREEDY = Sampling(max_tokens=NEW, temperature=0)
TEXT = "open an account"
HALF = "\ufffd"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not is_serve_available():
        pytest.skip("`transformers serve` needs transformers[serving], which is not installed here")
    folder = save_tiny(tmp_path_factory.mktemp("served") / "tiny", initializer_range=0.3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    cache = {"HF_HUB_CACHE": str(tmp_path_factory.mktemp("cache"))}
    server = Server(words, str(folder), cache, 1, f"http://127.0.0.1:{port}")
    yield server
    server.close()


def check(deltas: list[Delta], expected: str) -> None:
    text = "".join(delta.text for delta in deltas)
    assert text.rstrip(HALF) == expected.rstrip(HALF) != ""  # it keeps half a character at the end to itself
    assert len(deltas) > 2
    assert deltas[-1].finish is FinishReason.LENGTH
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == NEW


def test_a_chat_is_streamed(server: Server) -> None:
    folder = Path(server.model)
    turns = [{"role": "user", "content": TEXT}]
    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    check(
        asked(f"{server.url}/v1", ChatRequest(server.model, (Message("user", TEXT),), GREEDY)),
        greedy(folder, prompt, NEW),
    )


def test_a_completion_is_streamed(server: Server) -> None:
    check(
        asked(f"{server.url}/v1", CompletionRequest(server.model, TEXT, GREEDY)), greedy(Path(server.model), TEXT, NEW)
    )


def test_its_models_are_listed(server: Server) -> None:
    assert asked(f"{server.url}/v1", None) == []  # those of its cache, which a folder is not in


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (ChatRequest("another", (Message("user", TEXT),)), Refused, "pinned"),
        (ChatRequest("", (Message("user", TEXT),), Sampling(top_k=3)), Refused, "top_k"),
        (CompletionRequest("", (1, 2, 3)), Refused, "string"),
        (EmbeddingRequest("", ("a",)), Refused, "/v1/embeddings"),
        (ChatRequest("", (Message("user", TEXT),), GREEDY, n=2), Unavailable, "early"),  # it ignores n
    ],
)
def test_its_refusals_become_ours(server: Server, request_: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        asked(f"{server.url}/v1", replace(request_, model=request_.model or server.model))

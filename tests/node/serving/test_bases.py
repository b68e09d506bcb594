"""A base that is being loaded keeps nobody waiting who asked for another one, and nobody for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.context import Node
from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.engine.errors import EngineError
from node.serving import local
from node.serving.errors import Loading, Unavailable
from node.serving.local import LocalBackend
from node.serving.models import Models
from node.serving.requests import CompletionRequest, Sampling
from tests.node.serving.test_models import put_tiny
from tests.toy_tree import put_toy_release
from tests.world import make_node

LIMIT_S = 60.0
MANY = 40  # more than the threads that asyncio has


class SlowLoader:
    """Loads the Llama at once and the Qwen when it is told to, or breaks down as often as it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_go_on = threading.Event()
        self.failures = 0
        self.loads = 0

    def __call__(self, folder: Path, config: EngineConfig) -> Engine:
        if "qwen2" in (folder / "config.json").read_text():
            self.loads += 1
            self.asked.set()
            assert self.may_go_on.wait(LIMIT_S)
            if self.failures:
                self.failures -= 1
                raise EngineError("the disk is slow today")
        return Engine(folder, config)


@pytest.fixture
def loader() -> SlowLoader:
    return SlowLoader()


@pytest.fixture
def models(tmp_path: Path, loader: SlowLoader) -> Iterator[Models]:
    node: Node = make_node(tmp_path / "home", "en", threads=1, precision="fp32", cache_tokens=2048)
    put_toy_release(node, "en", put_tiny(node, tmp_path / "one"))
    put_toy_release(node, "de", put_tiny(node, tmp_path / "other", "qwen2", 2))
    models = Models(node, loader)
    yield models
    loader.may_go_on.set()
    models.close()
    node.close()


async def tokens(models: Models, name: str) -> int:
    request = CompletionRequest(name, "open an account", Sampling(max_tokens=3, temperature=0, ignore_eos=True))
    used = [delta.usage async for delta in LocalBackend(models).complete(request)][-1]
    assert used is not None
    return used.completion_tokens


def test_a_base_that_is_being_loaded_does_not_keep_others_from_answering(models: Models, loader: SlowLoader) -> None:
    async def ask() -> None:
        waiting = [asyncio.create_task(tokens(models, "de")) for _ in range(MANY)]
        assert await asyncio.to_thread(loader.asked.wait, LIMIT_S)
        for _ in range(2):
            assert await asyncio.wait_for(tokens(models, "en"), LIMIT_S) == 3
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        loader.may_go_on.set()
        assert await asyncio.wait_for(asyncio.gather(*waiting[1:]), LIMIT_S) == [3] * (MANY - 1)

    asyncio.run(ask())
    assert loader.loads == 1
    assert len(models.engines) == 2


def test_a_request_does_not_wait_for_ever(models: Models, loader: SlowLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOAD_S", 0.05)
    with pytest.raises(Loading) as loading:
        asyncio.run(tokens(models, "de"))
    assert (loading.value.message, loading.value.hint) == ("the model is being loaded", "try again in a while")
    loader.may_go_on.set()
    models.load("de")
    assert asyncio.run(tokens(models, "de")) == 3
    assert loader.loads == 1


def test_who_waits_is_told_of_a_failure_and_the_next_one_tries_again(models: Models, loader: SlowLoader) -> None:
    loader.failures = 1

    async def ask() -> list[int | BaseException]:
        waiting = [asyncio.create_task(tokens(models, "de")) for _ in range(3)]
        assert await asyncio.to_thread(loader.asked.wait, LIMIT_S)
        await asyncio.sleep(0)
        loader.may_go_on.set()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), LIMIT_S)

    told = asyncio.run(ask())
    assert any(isinstance(one, Unavailable) and "cannot be loaded" in one.message for one in told)
    assert asyncio.run(tokens(models, "de")) == 3
    assert loader.loads == 2


def test_a_load_that_ends_after_the_end_leaves_no_engine(models: Models, loader: SlowLoader) -> None:
    others = set(threading.enumerate())
    with pytest.raises(Loading) as loading:
        models.served("de")
    assert loader.asked.wait(LIMIT_S)
    closing = threading.Thread(target=models.close)
    closing.start()
    while models.ready:
        pass
    with pytest.raises(Unavailable, match="ending"):
        models.served("en")
    loader.may_go_on.set()
    closing.join(LIMIT_S)
    loading.value.wait(0)
    assert models.engines == {}
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if thread.name in ("engine", "load")]

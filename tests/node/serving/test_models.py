from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from node.context import Node
from node.models import load
from node.serving.errors import Refused, Unavailable, UnknownModel
from node.serving.local import LocalBackend
from node.serving.models import Models, parse_name
from node.serving.requests import ChatRequest, Message, Sampling
from registry.documents import BaseManifest
from registry.errors import BadData
from registry.paths import Ref
from registry.rows import Row
from sync.answers import answer
from sync.delta import Delta, Factor
from sync.prompt import conversation, prompt_text
from tests.node.tiny_models import save_tiny
from tests.toy_tree import head_of, put_toy_release
from tests.world import make_node, put_base


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", threads=1, precision="fp32", cache_tokens=2048)
    yield node
    node.close()


@pytest.fixture
def models(node: Node) -> Iterator[Models]:
    models = Models(node)
    yield models
    models.close()


def put_tiny(node: Node, folder: Path, family: str = "llama", seed: int = 1) -> BaseManifest:
    folder.mkdir()
    save_tiny(folder, family, seed=seed, initializer_range=0.3)
    return put_base(node, {file.name: file.read_bytes() for file in folder.iterdir()})


def change(seed: int) -> Delta:
    """A change of the tiny model that shows in its answers."""
    torch.manual_seed(seed)
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    return {name: Factor(torch.randn(4, 32), torch.randn(32, 4)) for name in names}


def ask(models: Models, name: str, text: str = "open an account") -> str:
    request = ChatRequest(name, (Message("user", text),), Sampling(max_tokens=12, temperature=0))

    async def collect() -> str:
        return "".join([delta.text async for delta in LocalBackend(models).chat(request)])

    return asyncio.run(collect())


def reference(node: Node, ref: str, text: str = "open an account") -> str:
    """What the merged model of a release answers."""
    loaded = load(node, Ref.parse(ref))[1]
    prompt = prompt_text(loaded.tokenizer, conversation(Row(text, ""), str(Ref.parse(ref).path)))
    return answer(loaded, [prompt], 12)[0]


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("en", "en"),
        ("en/a@v7", "en/a@v7"),
        ("banyan/en.a", "en/a"),
        ("banyan/en.a@v7", "en/a@v7"),
        ("banyan/master", "master"),
    ],
)
def test_a_name_is_read(name: str, ref: str) -> None:
    assert parse_name(name) == Ref.parse(ref)


@pytest.mark.parametrize("name", ["", "banyan/", "banyan/en/a", "en.a", "en@7", "EN", "en//a", "a" * 999, "\0"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(BadData):
        parse_name(name)


def test_every_path_and_version_answers_as_its_sum(node: Node, models: Models, tmp_path: Path) -> None:
    base = put_tiny(node, tmp_path / "base")
    top = put_toy_release(node, "en", base, delta=change(1))
    put_toy_release(node, "en/a", base, above=top, delta=change(2))
    answers = {name: ask(models, name) for name in ("en", "en/a")}
    assert answers == {name: reference(node, name) for name in answers}
    assert len(set(answers.values())) == 2
    assert len(models.engines) == 1
    put_toy_release(node, "en/a", base, above=top, delta=change(3), version=2)
    assert ask(models, "en/a") == ask(models, "en/a@v2") == reference(node, "en/a@v2")
    assert ask(models, "en/a@v1") == ask(models, "banyan/en.a@v1") == answers["en/a"]


def test_a_graft_has_an_engine_of_its_own(node: Node, models: Models, tmp_path: Path) -> None:
    put_toy_release(node, "en", put_tiny(node, tmp_path / "one"))
    put_toy_release(node, "de", put_tiny(node, tmp_path / "other", "qwen2", 2))
    assert {name: ask(models, name) for name in ("en", "de")} == {name: reference(node, name) for name in ("en", "de")}
    assert len(models.engines) == 2


def test_a_list_shows_the_tree(node: Node, models: Models, tmp_path: Path) -> None:
    assert models.listed() == []
    base = put_tiny(node, tmp_path / "base")
    top = put_toy_release(node, "en", base)
    pin = put_toy_release(node, "en/a", base, above=top, version=3)
    first, second = models.listed()
    assert (first.id, first.parent, first.base, first.owned_by) == ("en", None, "banyan/tiny", "banyan")
    assert (second.id, second.parent, second.version, second.release) == ("en/a", "en@v1", 3, pin.digest)
    assert second.context_tokens is None  # known once its base is loaded
    ask(models, "en")
    assert models.info("banyan/en.a").context_tokens == 128
    assert models.info("en/a@v3").id == "en/a@v3"


def test_what_is_not_here_is_named_with_what_is_near(node: Node, models: Models, tmp_path: Path) -> None:
    put_toy_release(node, "en/finance", put_tiny(node, tmp_path / "base"))
    for name in ("en/finanse", "banyan/en.finanse@v1", "En/Finance"):
        with pytest.raises(UnknownModel) as unknown:
            models.served(name)
        assert unknown.value.nearest == ("en/finance",)
    with pytest.raises(UnknownModel):
        models.served("en/finance@v2")


def test_a_damaged_adapter_keeps_one_model_from_being_served_and_no_other(
    node: Node, models: Models, tmp_path: Path
) -> None:
    base = put_tiny(node, tmp_path / "base")
    put_toy_release(node, "en", base)
    put_toy_release(node, "de", base, delta=change(1))
    adapter = head_of(node, "de").release.adapter
    assert adapter is not None
    node.blobs.path(adapter.file.sha256).write_bytes(b"damaged")
    with pytest.raises(Unavailable):
        ask(models, "de")
    assert ask(models, "en") == reference(node, "en")


def test_an_error_of_the_engine_names_the_model_by_its_path_and_version(
    node: Node, models: Models, tmp_path: Path
) -> None:
    endless = {name: Factor(factor.a * 1e30, factor.b * 1e30) for name, factor in change(1).items()}
    put_toy_release(node, "en", put_tiny(node, tmp_path / "base"), delta=endless, version=3)
    with pytest.raises(Unavailable, match="the model en@v3#"):
        ask(models, "en")


def test_nothing_is_served_after_the_end(node: Node, models: Models, tmp_path: Path) -> None:
    put_toy_release(node, "en", put_tiny(node, tmp_path / "base"))
    ask(models, "en")
    assert models.ready
    models.close()
    assert not models.ready
    with pytest.raises(Unavailable):
        ask(models, "en")


def test_a_request_that_does_not_fit_is_refused_by_its_field(node: Node, models: Models, tmp_path: Path) -> None:
    put_toy_release(node, "en", put_tiny(node, tmp_path / "base"))
    with pytest.raises(Refused) as refused:
        ask(models, "en", "x" * 200)
    assert (refused.value.field, refused.value.code) == ("messages", "context_length_exceeded")

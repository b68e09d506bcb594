"""Two real nodes: one is the upstream of the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from node.api.app import create_app
from node.serving.models import Models
from node.serving.router import upstreams_of
from registry.errors import LocalFailure
from tests.node.openai.conftest import listening
from tests.node.serving.test_models import put_tiny, reference
from tests.toy_tree import put_toy_release
from tests.world import make_node

ASKED = {"messages": [{"role": "user", "content": "open an account"}], "temperature": 0, "max_tokens": 12}
KEY = "key-of-the-upstream"


@pytest.fixture
def chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[openai.OpenAI, str]]:
    """A client of a node without models whose upstream `far` serves `en`, and what that answers."""
    monkeypatch.setenv("FAR_KEY", KEY)
    far = make_node(tmp_path / "far", "en", threads=1, precision="fp32", cache_tokens=2048, api_keys=[KEY])
    put_toy_release(far, "en", put_tiny(far, tmp_path / "base"))
    models = Models(far)
    with listening(create_app(far, models)) as url:
        near = make_node(tmp_path / "near", "en", upstreams=[f"far={url}/v1 FAR_KEY", "off=http://127.0.0.1:9/v1"])
        with (
            listening(create_app(near, Models(near))) as door,
            openai.OpenAI(base_url=f"{door}/v1", api_key="none", max_retries=0) as client,
        ):
            yield client, reference(far, "en")
        near.close()
    models.close()
    far.close()


def test_a_model_of_an_upstream_answers_under_its_name(chained: tuple[openai.OpenAI, str]) -> None:
    client, expected = chained
    assert [model.id for model in client.models.list()] == ["assistant", "far/en", "far/assistant"]
    assert client.chat.completions.create(model="far/en", **ASKED).choices[0].message.content == expected
    pieces = client.chat.completions.create(model="far/en", **ASKED, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == expected
    assert len(client.embeddings.create(model="far/en", input="x").data) == 1
    for name in ("far/de", "en", "near/en"):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=name, **ASKED)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="off/en", **ASKED)


def test_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(LocalFailure, match="far") as failed:
        upstreams_of(["far=http://localhost/v1 FAR_KEY"], {})
    assert "FAR_KEY" in failed.value.hint

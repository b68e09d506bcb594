"""A second node, in a process of its own on a loopback port, as the upstream of this one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest

from node.api.app import create_app
from node.serving.assistant import NAME as ASSISTANT
from node.serving.models import Models
from node.starter import STARTER_PATHS, install_starter_tree
from tests.node.openai.conftest import listening
from tests.processes import serving_command
from tests.world import make_node

TURNS = [{"role": "user", "content": "I lost my card in Berlin"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
NAME = "en/finance"


@dataclass(frozen=True)
class Chained:
    """The real client of a node without models of its own, and the process of the node behind it."""

    client: openai.OpenAI
    far: subprocess.Popen[str]


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chained]:
    root = tmp_path_factory.mktemp("chained")
    far = make_node(root / "far", "master", threads=1, precision="fp32", cache_tokens=4_096)
    install_starter_tree(far)
    far.close()
    with serving_command(root / "far", "up") as (process, url):
        near = make_node(root / "near", "en", upstreams=[f"far={url}/v1"])
        with (
            listening(create_app(near, Models(near))) as door,
            openai.OpenAI(base_url=f"{door}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Chained(client, process)
        near.close()


def test_what_passes_through_is_what_the_model_says_here(chained: Chained, client: openai.OpenAI) -> None:
    """Whole, streamed, as a chat and as a completion; `client` asks a node that has the same models itself."""
    for far, near in ((chained.client, f"far/{NAME}"), (client, NAME)):
        whole = far.chat.completions.create(model=near, messages=TURNS, **GREEDY)
        pieces = list(far.chat.completions.create(model=near, messages=TURNS, stream=True, **GREEDY))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == whole.choices[0].message.content != ""
        assert len(pieces) > 4
        assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 12)
        completed = far.completions.create(model=near, prompt="I lost my", logprobs=1, **GREEDY).choices[0]
        vectors = [one.embedding for one in far.embeddings.create(model=near, input=["a card", "a train"]).data]
        if far is chained.client:
            expected = (text, completed.text, completed.logprobs.tokens, vectors)
    assert (text, completed.text, completed.logprobs.tokens) == expected[:3]
    assert vectors[0] == pytest.approx(expected[3][0], abs=1e-4)
    assert vectors[1] == pytest.approx(expected[3][1], abs=1e-4)


def test_schemas_and_several_answers_pass_through(chained: Chained) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}
    reply = chained.client.chat.completions.create(model=f"far/{NAME}", messages=TURNS, n=2, response_format=form)
    assert [json.loads(choice.message.content)["a"] in (1, 2) for choice in reply.choices] == [True, True]


def test_the_models_of_a_second_node_are_listed(chained: Chained) -> None:
    far = {f"far/{name}" for name in (*STARTER_PATHS, ASSISTANT)}
    assert {model.id for model in chained.client.models.list()} == {ASSISTANT, *far}
    assert chained.client.models.retrieve(f"far/{NAME}").id == f"far/{NAME}"


@pytest.mark.parametrize(
    ("wrong", "error", "param"),
    [
        ({"model": "far/en/nowhere"}, openai.NotFoundError, "model"),
        ({"messages": [{"role": "user", "content": "x " * 5_000}]}, openai.BadRequestError, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
         openai.BadRequestError, "response_format"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_second_node_refuses_is_refused_here_by_the_same_field(
    chained: Chained, wrong: dict[str, object], error: type[openai.APIStatusError], param: str, *, stream: bool
) -> None:
    asked = {"model": f"far/{NAME}", "messages": TURNS, "max_tokens": 1, "stream": stream, **wrong}
    with pytest.raises(error) as refused:
        chained.client.chat.completions.create(**asked)
    assert refused.value.param == param


def test_a_second_node_that_ended_is_unavailable_and_hides_nothing(chained: Chained) -> None:
    """The last test of this file: it ends the process."""
    chained.far.terminate()
    assert chained.far.wait(60) == 0
    with pytest.raises(openai.InternalServerError) as refused:
        chained.client.chat.completions.create(model=f"far/{NAME}", messages=TURNS, max_tokens=1)
    assert refused.value.status_code == 503
    assert [model.id for model in chained.client.models.list()] == [ASSISTANT]

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.errors import BadData
from sync.aggregate.cohort import NotCovered
from sync.delta import Delta
from sync.input_grams import cohort_grams, input_grams
from sync.model import LoadedModel, load_model
from sync.tokens import Example, collate, encode
from tests.toy import KNOWN, SHAPES, TOOLS, rows

EXAMPLES = [Example(row, "en") for row in rows(SHAPES, range(3))] + [Example(rows(KNOWN)[0], "en/tools")]
NAME = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def loaded(toy_base: Path) -> LoadedModel:
    return load_model(toy_base, [], "fp32")


def test_the_gram_matrix_is_that_of_what_goes_into_the_module(loaded: LoadedModel) -> None:
    """Against the first layer's normalised embeddings, row by row without padding."""
    layer, total, tokens = loaded.model.model.layers[0], torch.zeros(64, 64), 0
    for example in EXAMPLES:
        ids, _ = collate([encode(loaded, example, 64)], 0, loaded.device)
        with torch.no_grad():
            x = layer.input_layernorm(loaded.model.model.embed_tokens(ids))[0]
        total, tokens = total + x.T @ x, tokens + len(x)
    found = input_grams(loaded, EXAMPLES, [NAME, "model.layers.1.mlp.down_proj"])
    torch.testing.assert_close(found[NAME], total / tokens, rtol=1e-4, atol=1e-6)
    assert found["model.layers.1.mlp.down_proj"].shape == (128, 128)
    assert float(torch.linalg.eigvalsh(found["model.layers.1.mlp.down_proj"]).min()) > -1e-5


def test_nothing_is_left_behind_in_the_model(loaded: LoadedModel) -> None:
    input_grams(loaded, EXAMPLES, [NAME])
    assert not any(module._forward_pre_hooks for _, module in loaded.linear_modules())


def test_each_client_is_measured_with_its_own_delta(loaded: LoadedModel, toy_adapters: dict[str, Delta]) -> None:
    before = loaded.model.model.layers[0].self_attn.q_proj.weight.clone()
    cohort = list(toy_adapters.values())
    asked = [
        [Example(row, path) for row in rows(table)] for path, table in (("en/shapes", SHAPES), ("en/tools", TOOLS))
    ]
    first, second = cohort_grams(loaded, cohort, asked)
    assert first.keys() == second.keys() == cohort[0].keys() | cohort[1].keys()
    deep = "model.layers.1.mlp.down_proj"
    assert not torch.allclose(first[deep], input_grams(loaded, asked[0], [deep])[deep], rtol=1e-3)
    torch.testing.assert_close(loaded.model.model.layers[0].self_attn.q_proj.weight, before, rtol=0, atol=1e-6)


def test_what_cannot_be_measured_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadData, match=r"no module model\.layers\.7\.x"):
        input_grams(loaded, EXAMPLES, [NAME, "model.layers.7.x"])
    with pytest.raises(NotCovered, match="RegMean needs prompts"):
        input_grams(loaded, [], [NAME])
    with pytest.raises(NotCovered, match="MiB of Gram matrices of each client"):
        input_grams(loaded, EXAMPLES, [NAME], most_bytes=64 * 64 * 4 - 1)

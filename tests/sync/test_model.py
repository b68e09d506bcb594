from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import BadData
from sync.delta import Delta, Factor
from sync.model import add, load_model, resolve_precision
from sync.prompt import PLAIN_TEMPLATE
from sync.tokens import Encoded, collate
from tests.node.tiny_models import CONFIGS, save_tiny

Q = "model.layers.0.self_attn.q_proj"


def delta(seed: int, name: str = Q, n_out: int = 32, n_in: int = 32) -> Delta:
    rng = torch.Generator().manual_seed(seed)
    return {name: Factor(torch.randn(2, n_in, generator=rng), torch.randn(n_out, 2, generator=rng))}


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_at_chosen_places_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, family), [], "fp32")
    encoded = [Encoded(list(range(3, 3 + size)), 2) for size in (9, 4, 6)]
    ids, chosen = collate(encoded, 0, loaded.device)
    with torch.no_grad():
        found = loaded.next_token_logits(ids, chosen)
        alone = [loaded.model(torch.tensor([one.ids])).logits[0, 1:-1] for one in encoded]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_threads_that_load_at_once_leave_every_later_model_whole(tmp_path: Path) -> None:
    """Without a lock, two of them leave transformers as it is in the middle of loading: for good."""
    save_tiny(tmp_path, tie_word_embeddings=True)
    with ThreadPoolExecutor(4) as pool:
        models = [loaded.model for loaded in pool.map(lambda _: load_model(tmp_path, [], "fp32"), range(12))]
    for model in [*models, load_model(tmp_path, [], "fp32").model]:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_model_is_its_base_and_the_sum_of_the_deltas(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    base, first, second = load_model(tmp_path, [], "fp32"), delta(1), delta(2)
    both = load_model(tmp_path, [first, second], "fp32")
    was, now = base.model.state_dict(), both.model.state_dict()
    expected = was[f"{Q}.weight"] + first[Q].product() + second[Q].product()
    torch.testing.assert_close(now[f"{Q}.weight"], expected)
    assert all(torch.equal(was[name], now[name]) for name in was if name != f"{Q}.weight")


def test_a_delta_can_be_taken_off_again(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path), [], "fp32")
    before = loaded.model.get_submodule(Q).weight.clone()
    add(loaded, delta(1), by=0.5)
    torch.testing.assert_close(loaded.model.get_submodule(Q).weight, before + 0.5 * delta(1)[Q].product())
    add(loaded, delta(1), by=-0.5)
    torch.testing.assert_close(loaded.model.get_submodule(Q).weight, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [delta(1, "model.layers.9.self_attn.q_proj"), delta(1, Q, 16, 32), delta(1, "lm_head", 300, 32), delta(1, "model")],
)
def test_a_delta_of_another_base_is_refused(wrong: Delta, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="which this base does not have"):
        load_model(save_tiny(tmp_path), [wrong], "fp32")


def test_a_delta_may_change_the_layers_of_the_blocks_only(tmp_path: Path) -> None:
    names = [name for name, _ in load_model(save_tiny(tmp_path), [], "fp32").linear_modules()]
    assert len(names) == 2 * 7
    assert {name.split(".layers.")[0] for name in names} == {"model"}


def test_a_base_without_template_or_padding_gets_them(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    change_tokenizer(tmp_path, lambda config: config.update(pad_token=None))
    tokenizer = load_model(tmp_path, [], "fp32").tokenizer
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_base_whose_answers_could_not_end_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    change_tokenizer(tmp_path, lambda config: config.update(eos_token=None))
    with pytest.raises(BadData, match="no end token"):
        load_model(tmp_path, [], "fp32")


def test_precision_is_as_asked_for() -> None:
    assert (resolve_precision("fp32"), resolve_precision("bf16")) == ("fp32", "bf16")
    assert resolve_precision("auto") in ("fp32", "bf16")


def test_bf16_is_the_arithmetic_and_not_the_weights(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path), [], "bf16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    with torch.no_grad(), loaded.arithmetic():
        assert loaded.model.get_submodule(Q)(torch.ones(1, 32)).dtype == torch.bfloat16
        ids, chosen = collate([Encoded([3, 4, 5], 1)], 0, loaded.device)
        assert loaded.next_token_logits(ids, chosen).dtype == torch.float32

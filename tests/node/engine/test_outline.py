"""What the engine does not compute is refused by name."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from node.engine.errors import EngineError
from node.engine.outline import ModelOutline
from tests.node.engine.families import FAMILIES, LLAMA3, SIZES


def config(family: str, **changes: object) -> dict[str, object]:
    kind, own = FAMILIES[family]
    return CONFIG_MAPPING[kind](**(SIZES | own)).to_dict() | changes


def refused(given: dict[str, object]) -> str:
    with pytest.raises(EngineError) as caught:
        ModelOutline.from_config(given)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "gemma3", "phi3", "gemma3n", None, 5])
def test_other_families_are_refused(kind: object) -> None:
    assert repr(kind) in refused({"model_type": kind, "hidden_size": 8})


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ("llama", {"rope_parameters": LLAMA3 | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"num_key_value_heads": 3}, "share"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("mistral", {"layer_types": ["full_attention"] * 4}, "Mistral"),
        ("qwen3", {"layer_types": ["full_attention"] * 3 + ["chunked_attention"]}, "layer types"),
        ("qwen3", {"layer_types": ["full_attention"] * 3}, "cannot be read"),
        ("llama", {"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_what_would_change_the_numbers_is_refused(family: str, changes: dict[str, object], words: str) -> None:
    ModelOutline.from_config(config(family))
    assert words in refused(config(family, **changes))


def test_old_spellings_mean_the_same() -> None:
    """Configs from before transformers 5 keep rope_theta and rope_scaling beside each other."""
    new = config("llama 3")
    old = {name: value for name, value in new.items() if name != "rope_parameters"}
    old["rope_theta"] = LLAMA3["rope_theta"]
    old["rope_scaling"] = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    assert ModelOutline.from_config(old) == ModelOutline.from_config(new)


def test_layers_of_a_mixed_model() -> None:
    outline = ModelOutline.from_config(config("gemma3"))
    assert [layer.window for layer in outline.layers] == [6, None, 6, None]
    assert len(outline.ropes) == 2
    assert outline.layers[0].rope != outline.layers[1].rope
    smol = ModelOutline.from_config(config("smollm3"))
    assert [layer.rope for layer in smol.layers] == [0, None, 0, None]

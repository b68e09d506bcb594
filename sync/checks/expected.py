"""What the file of an adapter must hold: the tensors that follow from its base and its declared shape.

For the Llama-like layout of transformers (Llama, Qwen, Mistral, Gemma, SmolLM) and the names of PEFT. Reading the
header that is compared here is left to `tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from registry.documents import AdapterShape
from registry.errors import BadData
from sync.checks.tensors import Header, shown

MAX_LAYERS: Final = 500
MAX_WIDTH: Final = 1 << 20


def expected_adapter_tensors(base_config: Mapping[str, Any], shape: AdapterShape) -> dict[str, tuple[int, int]]:
    """Names and shapes of the tensors of a PEFT LoRA adapter of `shape` over a Llama-like base.

    `base_config` is the base's config.json (transformers' names). A is (rank x in), B is (out x rank). Raises BadData
    for a target that such a base does not have, and for a config without the sizes.
    """
    modules = _linear_modules(base_config)
    expected: dict[str, tuple[int, int]] = {}
    for target in shape.targets:
        if target not in modules:
            raise BadData(f"{shown(target)} is not a module of this base; it has {', '.join(modules)}")
        block, n_out, n_in = modules[target]
        for layer in range(_size(base_config, "num_hidden_layers", MAX_LAYERS)):
            prefix = f"base_model.model.model.layers.{layer}.{block}.{target}"
            expected[f"{prefix}.lora_A.weight"] = (shape.rank, n_in)
            expected[f"{prefix}.lora_B.weight"] = (n_out, shape.rank)
    return expected


def check_names(header: Header, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadData unless the header names the expected tensors, all of them and no other."""
    if foreign := sorted(header.tensors.keys() - expected.keys()):
        raise BadData(f"{len(foreign)} tensors do not belong to this adapter, such as {shown(foreign[0])}")
    if missing := sorted(expected.keys() - header.tensors.keys()):
        raise BadData(f"{len(missing)} tensors are missing, such as {shown(missing[0])}")


def check_shapes(header: Header, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadData unless every tensor has the shape that its base and its rank ask for."""
    for name, entry in header.tensors.items():
        if entry.shape != expected[name]:
            raise BadData(f"{shown(name)} has the shape {list(entry.shape)}, it must be {list(expected[name])}")


def check_dtype(header: Header, dtype: str) -> None:
    """Raise BadData unless every tensor has this dtype."""
    for name, entry in header.tensors.items():
        if entry.dtype != dtype:
            raise BadData(f"{shown(name)} holds {entry.dtype}, the adapter is declared as {dtype}")


def _linear_modules(config: Mapping[str, Any]) -> dict[str, tuple[str, int, int]]:
    """Target -> (its block, out, in) of the linear layers of one Llama-like layer."""
    hidden = _size(config, "hidden_size", MAX_WIDTH)
    inner = _size(config, "intermediate_size", MAX_WIDTH)
    heads = _size(config, "num_attention_heads", MAX_WIDTH)
    pairs = _size(config, "num_key_value_heads", MAX_WIDTH, otherwise=heads)
    width = _size(config, "head_dim", MAX_WIDTH, otherwise=hidden // heads)
    return {
        "q_proj": ("self_attn", heads * width, hidden),
        "k_proj": ("self_attn", pairs * width, hidden),
        "v_proj": ("self_attn", pairs * width, hidden),
        "o_proj": ("self_attn", hidden, heads * width),
        "gate_proj": ("mlp", inner, hidden),
        "up_proj": ("mlp", inner, hidden),
        "down_proj": ("mlp", hidden, inner),
    }


def _size(config: Mapping[str, Any], key: str, limit: int, otherwise: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = otherwise
    if type(value) is not int or not 1 <= value <= limit:
        raise BadData(f"the base's config.json has no usable {key}: {value!a:.40}")
    return value

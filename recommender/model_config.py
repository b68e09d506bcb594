"""What the configuration of a Hugging Face model says of its size and shape. It is read as data, and nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from recommender.candidate import Architecture, Kind

FLOAT32_BYTES: Final = 4.0
STORED_BYTES: Final = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
QUANTISED_BITS: Final = {"awq": 4, "gptq": 4, "fp8": 8, "compressed-tensors": 8, "mxfp4": 4}  # where it is not said


def shape_of(config: Mapping[str, Any]) -> tuple[Architecture, int | None]:
    """The shape of a model, and its context in tokens; None where the configuration does not say."""
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        return Architecture(), None

    def number(name: str) -> int | None:
        value = text.get(name)
        return value if isinstance(value, int) and 0 < value < 1 << 40 else None

    heads = number("num_attention_heads")
    shape = Architecture(
        layers=number("num_hidden_layers"),
        hidden=number("hidden_size"),
        heads=heads,
        kv_heads=number("num_key_value_heads") or heads,
        head_dim=number("head_dim"),
        vocabulary=number("vocab_size"),
        weight_bytes=_weight_bytes(config, text),
    )
    return shape, number("max_position_embeddings")


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a model is, by the name of its class: an encoder, unless it writes text."""
    named = config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    writes = any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names)
    return "generative" if writes or not names else "encoder"


def _weight_bytes(config: Mapping[str, Any], text: Mapping[str, Any]) -> float:
    packed = config.get("quantization_config")
    if isinstance(packed, Mapping):
        bits = packed.get("bits", QUANTISED_BITS.get(str(packed.get("quant_method")), 16))
        return bits / 8 if isinstance(bits, int) and 0 < bits <= 32 else FLOAT32_BYTES
    stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "float32")
    return STORED_BYTES.get(stored, FLOAT32_BYTES)

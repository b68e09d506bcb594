"""`ModelOutline`: what of a model's config decides its arithmetic, for the families that `forward` computes.

The config is read by transformers' own class of the family, so defaults and old spellings are the ones that it knows.
Whatever would change the numbers and is not computed here is refused by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from node.engine.errors import EngineError

Activation = Literal["silu", "gelu", "gelu_tanh"]

ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
GEMMA = {"gemma", "gemma2", "gemma3_text"}
FAMILIES = {"llama", "smollm3", "mistral", "qwen2", "qwen3"} | GEMMA
# Frequencies that do not depend on how long a sequence became: keys of one step stay right in the next.
ROPES = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: one inverse frequency per pair of dimensions (as float32), a factor on cosine and sine."""

    inverse_frequencies: tuple[float, ...]
    scaling: float


@dataclass(frozen=True, slots=True)
class LayerOutline:
    """What one layer does otherwise than its neighbours.

    `rope` is an index into `ModelOutline.ropes`, None for a layer without positions; `window` counts the tokens that a
    token sees, itself included, None for all.
    """

    rope: int | None
    window: int | None


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """Dimensions and features of one decoder."""

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    layers: tuple[LayerOutline, ...]
    ropes: tuple[Rope, ...]
    eps: float
    activation: Activation
    tied: bool  # the output matrix is the embedding
    qkv_bias: bool
    output_bias: bool  # of the attention's output
    mlp_bias: bool
    qk_norm: bool
    norm_offset: float  # what is added to a norm's weight
    sandwich: bool  # norms after attention and MLP as well as before
    embedding_scale: float
    query_scale: float
    attention_softcap: float | None
    logit_softcap: float | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelOutline:
        """The outline of a model's `config.json`. Raises EngineError naming what is not supported."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise EngineError(
                f"the engine does not compute {family!r} models", f"choose a base of {', '.join(sorted(FAMILIES))}"
            )
        try:
            known = CONFIG_MAPPING[family].from_dict(dict(config))
        except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
            raise EngineError(
                f"the model's config cannot be read: {error}", "restore config.json of the base"
            ) from error
        _refuse_unsupported(known, config)
        return _outline(family, known)


def _outline(family: str, known: Any) -> ModelOutline:
    layers, ropes = _layers(family, known)
    gemma = family in GEMMA
    biased = bool(getattr(known, "attention_bias", False))
    head_dim = getattr(known, "head_dim", None) or known.hidden_size // known.num_attention_heads
    kv_heads = known.num_key_value_heads or known.num_attention_heads
    if known.num_attention_heads % kv_heads or head_dim % 2:
        raise EngineError(
            f"{known.num_attention_heads} heads of {head_dim} do not share {kv_heads} key heads evenly",
            "restore config.json of the base",
        )
    return ModelOutline(
        family=family,
        vocabulary=known.vocab_size,
        hidden=known.hidden_size,
        intermediate=known.intermediate_size,
        heads=known.num_attention_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=known.max_position_embeddings,
        layers=layers,
        ropes=ropes,
        eps=known.rms_norm_eps,
        activation=ACTIVATIONS[_activation(known)],
        tied=bool(known.tie_word_embeddings),
        qkv_bias=biased or family == "qwen2",
        output_bias=biased and family != "qwen2",
        mlp_bias=bool(getattr(known, "mlp_bias", False)),
        qk_norm=family in {"qwen3", "gemma3_text"},
        norm_offset=1.0 if gemma else 0.0,
        sandwich=family in {"gemma2", "gemma3_text"},
        embedding_scale=known.hidden_size**0.5 if gemma else 1.0,
        query_scale=float(getattr(known, "query_pre_attn_scalar", head_dim)) ** -0.5,
        attention_softcap=known.attn_logit_softcapping if family == "gemma2" else None,
        logit_softcap=getattr(known, "final_logit_softcapping", None),
    )


def _activation(known: Any) -> str:
    """Gemma 2 and 3 keep it in a field of its own."""
    return str(getattr(known, "hidden_activation", None) or known.hidden_act)


def _refuse_unsupported(known: Any, config: Mapping[str, Any]) -> None:
    """Raise EngineError for what would change the numbers and is not computed here."""
    named = [name for name in config.get("architectures") or () if not str(name).endswith("ForCausalLM")]
    kinds = {"full_attention", "sliding_attention"}
    wrong = {
        "quantised weights (quantization_config)": config.get("quantization_config") is not None,
        f"the architecture {', '.join(map(str, named))}": bool(named),
        f"the activation {_activation(known)!r}": _activation(known) not in ACTIVATIONS,
        "attention to later tokens (use_bidirectional_attention)": getattr(known, "use_bidirectional_attention", False),
        "layer types other than full and sliding attention": not kinds.issuperset(
            getattr(known, "layer_types", None) or ()
        ),
        "layer types in a Mistral": known.model_type == "mistral" and config.get("layer_types") is not None,
        "a cap on the attention of Gemma 3 (attn_logit_softcapping)": known.model_type == "gemma3_text"
        and known.attn_logit_softcapping is not None,
    }
    for what, found in wrong.items():
        if found:
            raise EngineError(f"the engine does not compute {what}", "choose a base without it, or serve it upstream")


def _layers(family: str, known: Any) -> tuple[tuple[LayerOutline, ...], tuple[Rope, ...]]:
    """Every layer's window and rope, and the different ropes."""
    count = known.num_hidden_layers
    kinds = getattr(known, "layer_types", None)
    if family == "mistral":
        kinds = ["full_attention" if known.sliding_window is None else "sliding_attention"] * count
    kinds = kinds or ["full_attention"] * count
    with_rope = getattr(known, "no_rope_layers", None) or [1] * count  # 1 marks a layer that has it
    if not len(kinds) == count <= len(with_rope):
        raise EngineError(f"the config describes {len(kinds)} of {count} layers", "restore config.json of the base")
    own = sorted(set(kinds)) if family == "gemma3_text" else [None]  # Gemma 3 turns its local layers more quickly
    ropes = tuple(_rope(known, kind) for kind in own)
    layers = tuple(
        LayerOutline(
            rope=(own.index(kind) if family == "gemma3_text" else 0) if turned else None,
            window=known.sliding_window if kind == "sliding_attention" else None,
        )
        for kind, turned in zip(kinds, with_rope, strict=False)
    )
    return layers, ropes


def _rope(known: Any, kind: str | None) -> Rope:
    """Frequencies of the layers of a kind (None where all layers are alike), as transformers computes them."""
    parameters = known.rope_parameters[kind] if kind else known.rope_parameters
    name = parameters["rope_type"]
    if name not in ROPES or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise EngineError(
            f"the engine does not compute rotary positions of the type {name!r} with "
            f"partial_rotary_factor {parameters.get('partial_rotary_factor', 1.0)}",
            f"choose a base with one of {', '.join(sorted(ROPES))}, on whole heads",
        )
    if name == "default":
        dimensions = getattr(known, "head_dim", None) or known.hidden_size // known.num_attention_heads
        exponents = torch.arange(0, dimensions, 2, dtype=torch.float) / dimensions
        return Rope(tuple((1.0 / (parameters["rope_theta"] ** exponents)).tolist()), 1.0)
    compute: Callable[..., tuple[torch.Tensor, float]] = ROPE_INIT_FUNCTIONS[name]
    frequencies, scaling = compute(known, torch.device("cpu"), **({"layer_type": kind} if kind else {}))
    return Rope(tuple(frequencies.float().tolist()), float(scaling))

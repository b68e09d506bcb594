"""Models and adapters as GGUF files, for llama.cpp, Ollama and others, with a Modelfile beside them.

The layout is that of llama.cpp's own converters (convert_hf_to_gguf.py, convert_lora_to_gguf.py). In the architecture
`llama` the rows of queries and keys stand in another order, because rotary positions pair neighbours there and halves
in transformers. Taken are Llama, Mistral, Qwen 2 and Qwen 3 with what llama.cpp computes alike; all else is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from node.gguf_tokenizer import write_tokenizer
from registry.errors import BadData, LocalFailure
from sync.delta import Delta, uniform
from sync.prompt import system_turn

if TYPE_CHECKING:
    from gguf import GGUFWriter

MODEL_FILE: Final = "model.gguf"
ADAPTER_FILE: Final = "adapter.gguf"
BASE_FILE: Final = "base.gguf"
MODELFILE: Final = "Modelfile"

# model_type of transformers -> architecture there.
ARCHITECTURES: Final = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
TEMPLATES_FILE: Final = Path(__file__).parent / "bundled" / "model" / "chat_template.jinja"
# The bundled chat template in the language of Modelfiles (Go); of others only their own author knows the equivalent.
OLLAMA_TEMPLATE: Final = (
    '{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ if eq .Role "assistant" }}<|end|>{{ end }}{{ end -}}'
    "<|assistant|>"
)

Number = Literal["fp32", "bf16", "fp16"]


def write_model(model: Any, tokenizer: Any, base: Path, folder: Path, name: str, number: Number) -> None:
    """Write a model of transformers, adapters merged, as `model.gguf`; `base` is the folder of its tokenizer.

    Matrices are written as `number`, vectors as fp32, as llama.cpp expects. Raises BadData when it cannot be a GGUF.
    """
    import gguf

    config = model.config
    _refuse(config)
    tensors = _stored(model, config)
    writer = _writer(folder / MODEL_FILE, config)
    writer.add_name(name)
    _add_shape(writer, config)
    described = json.loads((base / "tokenizer.json").read_bytes())
    write_tokenizer(writer, tokenizer, described, config.vocab_size)
    kinds = {"fp32": gguf.GGMLQuantizationType.F32, "bf16": gguf.GGMLQuantizationType.BF16}
    kind = kinds.get(number, gguf.GGMLQuantizationType.F16)
    files = {"fp32": gguf.LlamaFileType.ALL_F32, "bf16": gguf.LlamaFileType.MOSTLY_BF16}
    writer.add_file_type(files.get(number, gguf.LlamaFileType.MOSTLY_F16))
    names = gguf.get_tensor_name_map(_architecture(config), config.num_hidden_layers)
    for tensor_name, tensor in tensors:
        stored = names.get_name(tensor_name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise BadData(f"{tensor_name} has no place in a GGUF file", "export it with --format merged")
        as_kind = kind if tensor.dim() > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            stored, gguf.quants.quantize(_ordered(tensor_name, tensor, config).numpy(), as_kind), raw_dtype=as_kind
        )
    for factors in _rope_factors(config):
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    _finish(writer)


def write_adapter(delta: Delta, config: Any, folder: Path, name: str) -> None:
    """Write a delta over a base as `adapter.gguf`, in fp32, its scale in its factors. Raises as `write_model`."""
    import gguf

    _refuse(config)
    writer = _writer(folder / ADAPTER_FILE, config)
    writer.add_type("adapter")
    writer.add_name(name)
    padded = uniform(delta)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(next(iter(padded.values())).rank))  # divided by the rank: 1
    names = gguf.get_tensor_name_map(_architecture(config), config.num_hidden_layers)
    for module, factor in sorted(padded.items()):
        stored = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if stored is None:
            raise BadData(f"{module} has no place in a GGUF file", "export it with --format adapter")
        writer.add_tensor(f"{stored}.lora_a", factor.a.contiguous().numpy())
        writer.add_tensor(f"{stored}.lora_b", _ordered(f"{module}.weight", factor.b, config).numpy())
    _finish(writer)


def modelfile(path: str, template: str | None, *, adapter_of: str | None = None) -> str:
    """The Modelfile beside a GGUF: for the merged model, or for an adapter over the base `adapter_of`."""
    if adapter_of is None:
        lines = [f"FROM ./{MODEL_FILE}"]
    else:
        lines = [
            f"# {BASE_FILE} is {adapter_of} as GGUF: put it here",
            f"FROM ./{BASE_FILE}",
            f"ADAPTER ./{ADAPTER_FILE}",
        ]
    if template is not None and template.strip() == TEMPLATES_FILE.read_text(encoding="utf-8").strip():
        lines += [f'TEMPLATE """{OLLAMA_TEMPLATE}"""', f'SYSTEM """{system_turn(path)}"""']
    else:
        lines += ["# No TEMPLATE: the chat template is in the GGUF, in the language of transformers (Jinja)."]
        lines += [f"# The system turn begins with the path: {system_turn(path)}"]
    return "\n".join(lines) + "\n"


def _refuse(config: Any) -> None:
    """Raise BadData for what llama.cpp would compute differently."""
    family = config.model_type
    if family not in ARCHITECTURES:
        raise BadData(
            f"{family!r} models are not written as GGUF here: {', '.join(sorted(ARCHITECTURES))} are",
            "export it with --format merged, and convert that with llama.cpp's own converter",
        )
    window = getattr(config, "sliding_window", None)
    windowed = window is not None and window < config.max_position_embeddings
    kind = config.rope_parameters["rope_type"]
    wrong = {
        "attention in windows": windowed and getattr(config, "use_sliding_window", family == "mistral"),
        "biases of attention": family != "qwen2" and getattr(config, "attention_bias", False),
        "biases of the MLP": getattr(config, "mlp_bias", False),
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        f"rotary positions of the type {kind}": kind not in ("default", "linear", "llama3")
        or (kind == "llama3" and ARCHITECTURES[family] != "LLAMA"),
        "rotary positions on a part of each head": config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for what, found in wrong.items():
        if found:
            raise BadData(f"this model has {what}, which a GGUF file cannot say", "export it with --format merged")


def _architecture(config: Any) -> Any:
    import gguf

    return gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]


def _writer(file: Path, config: Any) -> GGUFWriter:
    import gguf

    return gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[_architecture(config)])


def _finish(writer: GGUFWriter) -> None:
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    import gguf

    head = _head(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(_kv_heads(config))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def _stored(model: Any, config: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that are written, in float32; an output matrix that is the embedding is not written twice."""
    for name, tensor in model.state_dict().items():
        if not (name == "lm_head.weight" and config.tie_word_embeddings):
            yield name, tensor.detach().to("cpu", torch.float32)


def _ordered(name: str, tensor: Tensor, config: Any) -> Tensor:
    """A tensor with its rows as they stand in GGUF: halves of each head become neighbours in queries and keys."""
    if ARCHITECTURES[config.model_type] == "LLAMA" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if name.endswith("q_proj.weight") else _kv_heads(config)
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor.contiguous()


def _rope_factors(config: Any) -> Iterable[Tensor]:
    """What the frequencies of Llama 3 are divided by (transformers, modeling_rope_utils.py), one tensor or none."""
    rope: Mapping[str, Any] = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return
    head = _head(config)
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the context it was made for
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    yield 1 / ((1 - smooth) / rope["factor"] + smooth)


def _head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _kv_heads(config: Any) -> int:
    return int(config.num_key_value_heads or config.num_attention_heads)


def require_gguf() -> None:
    """Raise LocalFailure where the package that writes GGUF files is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise LocalFailure("the package gguf is not installed", "pip install 'banyan-node[gguf]'") from error

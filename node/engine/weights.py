"""The weights of a base: read from safetensors, fused where one product can do the work of several.

On a CPU the matrices are kept in oneDNN's own blocked order. At small batches that is two to three times as fast as
`F.linear`, which brings them into that order at every call (bf16) or multiplies through a slower library (fp32).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  the name that everyone knows
from safetensors import SafetensorError, safe_open
from torch import Tensor

from node.engine.errors import EngineError
from node.engine.outline import ModelOutline

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Rows that the blocked order is chosen for. It is right for any number; steps of a few rows gain most from it.
TYPICAL_ROWS = 16


class Linear:
    """y = x·Wᵀ (+ bias) (+ residual). W is out x in, x is rows x in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.packed = _packable(weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)  # noqa: SLF001
        else:
            self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """Rows x out."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # noqa: SLF001
        return product

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Residual + product, in one pass where the library can."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias).add_(residual)
        added: Tensor = torch.ops.mkldnn._linear_pointwise(x, residual, self.weight, self.bias, "add")  # noqa: SLF001
        return added


def _packable(weight: Tensor) -> bool:
    """Whether this build of torch multiplies by packed weights of this kind (the operations behind torch.compile)."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    return weight.dtype is torch.float32 or supported


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Norm weights carry the family's offset; `query_key_norm` is (heads + key heads) x head_dim."""

    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    input_norm: Tensor
    mlp_norm: Tensor
    query_key_norm: Tensor | None
    after_attention: Tensor | None
    after_mlp: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole base: `embedding` is vocabulary x hidden."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Linear


def read_weights(base: Path, outline: ModelOutline, dtype: torch.dtype, device: torch.device) -> Weights:
    """Read a base folder. Raises EngineError when a file or tensor is missing, unknown or of another form."""
    with ExitStack() as stack:
        return _Reader(base, stack, outline, dtype, device).weights()


class _Reader:
    """Tensors by name out of one or several mapped files."""

    def __init__(
        self, base: Path, stack: ExitStack, outline: ModelOutline, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.outline, self.dtype, self.device = outline, dtype, device
        self._read: dict[str, Callable[[str], Tensor]] = {}
        for file in _files(base):
            try:
                opened = stack.enter_context(safe_open(file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise EngineError(f"{file.name} of the base cannot be read: {error}", "fetch the base again") from error
            self._read |= dict.fromkeys(opened.keys(), opened.get_tensor)

    def weights(self) -> Weights:
        outline = self.outline
        embedding = self.take("model.embed_tokens.weight", outline.vocabulary, outline.hidden)
        layers = tuple(self.layer(index) for index in range(len(outline.layers)))
        norm = self.norm("model.norm.weight", outline.hidden)
        head = embedding if outline.tied else self.take("lm_head.weight", outline.vocabulary, outline.hidden)
        self._read.pop("lm_head.weight", None)
        unknown = sorted(name for name in self._read if not name.endswith("rotary_emb.inv_freq"))
        if unknown:
            raise EngineError(
                f"the base has {unknown[0]}, which {outline.family} models do not use",
                "use the config.json that belongs to these weights",
            )
        return Weights(embedding, layers, norm, Linear(head, None))

    def layer(self, index: int) -> LayerWeights:
        outline, prefix = self.outline, f"model.layers.{index}."
        queries, keys = outline.heads * outline.head_dim, outline.kv_heads * outline.head_dim
        hidden, wide = outline.hidden, outline.intermediate
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        sizes = (("q_proj", queries), ("k_proj", keys), ("v_proj", keys))
        qk_norm = None
        if outline.qk_norm:
            each = [self.norm(f"{attention}{name}_norm.weight", outline.head_dim) for name in "qk"]
            qk_norm = torch.cat([each[0].expand(outline.heads, -1), each[1].expand(outline.kv_heads, -1)])
        before_mlp, after = "post_attention_layernorm.weight", None
        after_mlp = None
        if outline.sandwich:
            after = self.norm(prefix + before_mlp, hidden)
            after_mlp = self.norm(prefix + "post_feedforward_layernorm.weight", hidden)
            before_mlp = "pre_feedforward_layernorm.weight"
        return LayerWeights(
            qkv=self.linear([(attention + name, out) for name, out in sizes], hidden, bias=outline.qkv_bias),
            output=self.linear([(attention + "o_proj", hidden)], queries, bias=outline.output_bias),
            gate_up=self.linear([(mlp + "gate_proj", wide), (mlp + "up_proj", wide)], hidden, bias=outline.mlp_bias),
            down=self.linear([(mlp + "down_proj", hidden)], wide, bias=outline.mlp_bias),
            input_norm=self.norm(prefix + "input_layernorm.weight", hidden),
            mlp_norm=self.norm(prefix + before_mlp, hidden),
            query_key_norm=qk_norm,
            after_attention=after,
            after_mlp=after_mlp,
        )

    def linear(self, parts: Iterable[tuple[str, int]], inputs: int, *, bias: bool) -> Linear:
        """Several matrices over one input as one, in their order."""
        named = list(parts)
        weight = torch.cat([self.take(f"{name}.weight", out, inputs) for name, out in named])
        return Linear(weight, torch.cat([self.take(f"{name}.bias", out) for name, out in named]) if bias else None)

    def norm(self, name: str, size: int) -> Tensor:
        """A norm's weight. One with an offset stays float32: near one, bf16 has few steps."""
        if not self.outline.norm_offset:
            return self.take(name, size)
        return self.take(name, size, dtype=torch.float32) + self.outline.norm_offset

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, which is not there to be taken again."""
        if name not in self._read:
            raise EngineError(f"the base lacks {name}", "fetch the base again")
        tensor = self._read.pop(name)(name)
        if tensor.shape != shape or not tensor.is_floating_point():
            raise EngineError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, the config says {list(shape)}",
                "use the config.json that belongs to these weights",
            )
        return tensor.to(self.device, dtype or self.dtype)


def _files(base: Path) -> list[Path]:
    """The files of a base: one, or those that its index names."""
    if (base / SINGLE_FILE).is_file():
        return [base / SINGLE_FILE]
    try:
        index = json.loads((base / INDEX_FILE).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EngineError(
            f"{base} has neither {SINGLE_FILE} nor a readable {INDEX_FILE}", "fetch the base again"
        ) from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise EngineError(f"{INDEX_FILE} of the base names files outside its folder", "fetch the base again")
    return [base / name for name in names]

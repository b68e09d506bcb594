"""The decoder: token ids to hidden states and logits, for every family that `ModelOutline` describes.

A step is flat: all its tokens are rows of one matrix, whatever sequence they belong to. Only attention and adapters
know sequences (`attention.Segment`, `mix.Mix`). The arithmetic is that of transformers' modules; in float32 the greedy
tokens are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  the name that everyone knows
from torch import Tensor

from node.engine.attention import Pool, Segment
from node.engine.mix import Mix
from node.engine.outline import Activation, ModelOutline, Rope
from node.engine.weights import LayerWeights, Weights

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a step. `slots` says where their keys and values are stored, None for not at all."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor | None
    segments: tuple[Segment, ...]
    mix: Mix | None


class Decoder:
    """The layers of a model over a pool of keys and values."""

    def __init__(self, outline: ModelOutline, weights: Weights, pool: Pool) -> None:
        self.outline = outline
        self.weights = weights
        self.pool = pool
        self.activation = ACTIVATIONS[outline.activation]
        self.embedding_scale = weights.embedding.new_tensor(outline.embedding_scale)
        self.turned = outline.heads + outline.kv_heads  # heads with positions: queries and keys

    def hidden(self, batch: Batch) -> Tensor:
        """The last layer's output before the final norm, tokens x hidden."""
        x = F.embedding(batch.tokens, self.weights.embedding)
        if self.outline.embedding_scale != 1.0:
            x = x * self.embedding_scale
        angles = [_angles(rope, batch.positions, x.dtype) for rope in self.outline.ropes]
        for index, layer in enumerate(self.weights.layers):
            rope = self.outline.layers[index].rope
            x = self._attention(index, layer, batch, x, None if rope is None else angles[rope])
            x = self._mlp(index, layer, batch.mix, x)
        return x

    def norm(self, hidden: Tensor) -> Tensor:
        """The final norm."""
        return self._normed(hidden, self.weights.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 rows x vocabulary, of rows before the final norm."""
        logits = self.weights.head(self.norm(hidden)).float()
        cap = self.outline.logit_softcap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def _attention(
        self, index: int, layer: LayerWeights, batch: Batch, x: Tensor, angles: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        outline, count = self.outline, len(x)
        normed = self._normed(x, layer.input_norm)
        fused = layer.qkv(normed)
        if batch.mix is not None:
            batch.mix.add("qkv", index, normed, fused)
        heads = fused.view(count, -1, outline.head_dim)
        turned = heads[:, : self.turned]
        if layer.query_key_norm is not None:
            turned.copy_(_rms(turned, layer.query_key_norm, outline.eps))
        if angles is not None:
            _turn(turned, *angles)
        queries, keys_values = heads[:, : outline.heads], heads[:, outline.heads :]
        if batch.slots is not None:
            self.pool.write(index, batch.slots, keys_values)
        if len(batch.segments) == 1:
            seen = batch.segments[0].attend(index, queries, keys_values)
        else:
            sizes = [segment.count for segment in batch.segments]
            parts = zip(
                batch.segments, queries.split_with_sizes(sizes), keys_values.split_with_sizes(sizes), strict=True
            )
            seen = torch.cat([segment.attend(index, q, kv) for segment, q, kv in parts])
        return self._residual("output", index, batch.mix, x, seen)

    def _mlp(self, index: int, layer: LayerWeights, mix: Mix | None, x: Tensor) -> Tensor:
        normed = self._normed(x, layer.mlp_norm)
        fused = layer.gate_up(normed)
        if mix is not None:
            mix.add("gate_up", index, normed, fused)
        gate, up = fused.chunk(2, -1)
        return self._residual("down", index, mix, x, self.activation(gate).mul_(up))

    def _residual(self, name: str, index: int, mix: Mix | None, x: Tensor, inner: Tensor) -> Tensor:
        """The sum of x and the output matrix of attention or MLP, with the norm in between where the family has one."""
        layer = self.weights.layers[index]
        linear, after = (layer.output, layer.after_attention) if name == "output" else (layer.down, layer.after_mlp)
        y = linear.added_to(x, inner) if after is None else linear(inner)
        if mix is not None:
            mix.add(name, index, inner, y)
        return y if after is None else x + self._normed(y, after)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        if weight.dtype is x.dtype:
            return F.rms_norm(x, weight.shape, weight, self.outline.eps)
        return F.rms_norm(x.float(), weight.shape, weight, self.outline.eps).to(x.dtype)


def _rms(heads: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each head normed by itself: tokens x heads x head_dim, with a weight for each head."""
    return F.rms_norm(heads.to(weight.dtype), weight.shape[-1:], None, eps).mul_(weight)


def _angles(rope: Rope, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, tokens x 1 x head_dim; the sine of the first half is negative (see `_turn`)."""
    frequencies = torch.tensor(rope.inverse_frequencies, dtype=torch.float32, device=positions.device)
    turns = positions[:, None].float() * frequencies
    cosine, sine = turns.cos() * rope.scaling, turns.sin() * rope.scaling
    return torch.cat([cosine, cosine], -1).to(dtype)[:, None], torch.cat([-sine, sine], -1).to(dtype)[:, None]


def _turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Rotate in place (RoFormer, arXiv 2104.09864; the halves of a head are the two coordinates).

    x·cos + rotate_half(x)·sin, where rotate_half swaps the halves and negates the first: the swap is a roll, the sign
    is in the sine.
    """
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cosine).addcmul_(swapped, sine)

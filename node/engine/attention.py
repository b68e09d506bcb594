"""Attention over the paged cache: the pool that holds every sequence's keys and values, and the products with them.

The pool is what lasts: blocks are shared, kept and found again there. What is multiplied are dense copies of the
running sequences (`rows`), since gathering all pages anew in each layer of each step costs more than the products.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  the name that everyone knows
from torch import Tensor

from node.engine.outline import ModelOutline


class Pool:
    """Keys and values of all layers, by slot: block b holds the slots from b * block_tokens.

    `tensor` is layers x slots x (2 * key heads) x head_dim, keys before values.
    """

    def __init__(
        self, outline: ModelOutline, blocks: int, block_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_tokens = block_tokens
        shape = (len(outline.layers), blocks * block_tokens, 2 * outline.kv_heads, outline.head_dim)
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = list(self.tensor)

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store tokens x (2 * key heads) x head_dim."""
        self.layers[layer].index_copy_(0, slots, keys_values)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, key heads x tokens x head_dim each."""
        return only_own(layer, self.layers[layer].index_select(0, slots))

    def read_all(self, slots: Tensor) -> Tensor:
        """Layers x 2 x key heads x tokens x head_dim."""
        found = self.tensor.index_select(1, slots)
        return found.view(len(found), len(slots), 2, -1, found.shape[-1]).permute(0, 2, 3, 1, 4)

    def slots(self, blocks: Many[int], start: int, stop: int) -> list[int]:
        """Where tokens `start` to `stop` (exclusive) of a sequence with this block table lie."""
        size = self.block_tokens
        if stop == start + 1:
            return [blocks[start // size] * size + start % size]
        return [blocks[token // size] * size + token % size for token in range(start, stop)]

    def copy(self, pairs: Many[tuple[int, int]]) -> None:
        """Copy blocks, (source, target) each; all sources are read before any target is written."""
        by_block = self.tensor.view(len(self.tensor), -1, self.block_tokens, *self.tensor.shape[2:])
        sources, targets = torch.tensor(pairs, device=self.tensor.device).unbind(1)
        by_block.index_copy_(1, targets, by_block.index_select(1, sources))


class Segment(Protocol):
    """Neighbouring tokens of a step whose attention is computed together."""

    count: int  # tokens

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Tokens x (heads * head_dim), of queries (tokens x heads x head_dim) and the tokens' own keys and values."""


class Shape:
    """How queries and keys are multiplied in each layer of a model: scale, cap, sharing of key heads."""

    def __init__(self, outline: ModelOutline) -> None:
        self.scale = outline.query_scale
        self.cap = outline.attention_softcap
        self.kv_heads = outline.kv_heads
        self.shared = outline.heads // outline.kv_heads  # queries to a key head
        self.windows = tuple(layer.window for layer in outline.layers)

    def weigh(self, queries: Tensor, transposed: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Softmax(queries·keysᵀ + mask)·values over matrices x rows x head_dim; the mask broadcasts to the products.

        The keys are given transposed, matrices x head_dim x tokens.
        """
        if self.cap is None:
            scores = torch.baddbmm(mask, queries, transposed, alpha=self.scale)
        else:
            scores = torch.bmm(queries, transposed).mul_(self.scale / self.cap).tanh_().mul_(self.cap).add_(mask)
        return torch.bmm(torch.softmax(scores, -1), values)


def visible(positions: Tensor, first: int, stop: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask of queries at `positions` over the tokens `first` to `stop`: 0 where they see, -inf where not.

    Positions x tokens. A token sees itself and those before it, at most `window` in all.
    """
    tokens = torch.arange(first, stop, device=positions.device)
    hidden = tokens > positions[:, None]
    if window is not None:
        hidden |= tokens <= positions[:, None] - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, float("-inf"))


class Piece:
    """Several tokens of one sequence over all of its tokens before them.

    `source` gives the sequence's keys and values. Masks are made once for all layers of a kind.
    """

    def __init__(self, shape: Shape, source: Source, start: int, count: int) -> None:
        self.shape, self.source, self.start, self.count = shape, source, start, count
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """See `Segment`."""
        window = self.shape.windows[layer]
        stop = self.start + self.count
        first = 0 if window is None else max(0, self.start + 1 - window)
        keys, values = (each[:, first:stop] for each in self.source(layer, keys_values))
        by_head = queries.transpose(0, 1)
        if self.shape.cap is None and self.start == 0 and (window is None or window >= stop):
            found = self._product(by_head, keys, values, None)
        else:
            if window not in self._masks:
                positions = torch.arange(self.start, stop, device=queries.device)
                self._masks[window] = visible(positions, first, stop, window, queries.dtype)
            found = self._product(by_head, keys, values, self._masks[window])
        return found.transpose(0, 1).reshape(self.count, -1)

    def _product(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Heads x tokens x head_dim; causal from the first token on where there is no mask."""
        shape = self.shape
        if shape.cap is not None and mask is not None:
            grouped = queries.reshape(shape.kv_heads, shape.shared * self.count, -1)
            return shape.weigh(grouped, keys.transpose(1, 2), values, mask.repeat(shape.shared, 1)).view(queries.shape)
        found = F.scaled_dot_product_attention(
            queries[None],
            keys.contiguous()[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=shape.scale,
            enable_gqa=shape.shared > 1,
        )
        return found[0]


class Source(Protocol):
    """Where a piece's keys and values come from: it stores those of the piece where it has to, and gives all so far."""

    def __call__(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Key heads x tokens x head_dim each, given the piece's own: tokens x (2 * key heads) x head_dim."""


def only_own(layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001  every layer is alike
    """The source of a piece that nothing precedes and nobody continues."""
    keys, values = keys_values.chunk(2, 1)
    return keys.transpose(0, 1), values.transpose(0, 1)

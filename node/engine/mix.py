"""`Mix`: what LoRA adapters add to the rows of a step, each row on a path of its own.

A row's path is several adapters, top first; its change is the sum of theirs, which is one low-rank product of the
factors side by side along the rank. The rows of a step are cut into *entries* of equal size, each of one path, and two
batched products over the entries change every row by its own path. Against one product over the factors of all paths
with a mask (tokens x Σ ranks) each row meets its own factors only: at 16 paths four times as fast in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from node.engine.outline import ModelOutline

Trail = tuple[str, ...]  # adapter ids of a path, top first


@dataclass(frozen=True, slots=True)
class Site:
    """One fused matrix of a layer: its inputs, and where the outputs of each module lie."""

    inputs: int
    modules: dict[str, slice]

    @property
    def outputs(self) -> int:
        """Outputs of all modules."""
        return max(int(place.stop) for place in self.modules.values())


@dataclass(frozen=True, slots=True)
class Factors:
    """A site's change in all layers: `a` is layers x inputs x rank, `b` is layers x rank x outputs, scale included."""

    a: Tensor
    b: Tensor


Adapter = Mapping[str, Factors]  # by site, only those that it changes


def sites(outline: ModelOutline) -> dict[str, Site]:
    """The matrices of a layer that an adapter may change."""
    queries, keys = outline.heads * outline.head_dim, outline.kv_heads * outline.head_dim
    wide, hidden = outline.intermediate, outline.hidden
    attention = {
        "self_attn.q_proj": slice(0, queries),
        "self_attn.k_proj": slice(queries, queries + keys),
        "self_attn.v_proj": slice(queries + keys, queries + 2 * keys),
    }
    mlp = {"mlp.gate_proj": slice(0, wide), "mlp.up_proj": slice(wide, 2 * wide)}
    return {
        "qkv": Site(hidden, attention),
        "output": Site(queries, {"self_attn.o_proj": slice(0, hidden)}),
        "gate_up": Site(hidden, mlp),
        "down": Site(wide, {"mlp.down_proj": slice(0, hidden)}),
    }


class Stack:
    """The factors of a step's entries side by side, kept from step to step: only entries that differ are copied.

    Of every site, `a` is layers x room x inputs x rank and `b` layers x room x rank x outputs; shorter ranks end in
    zeros. Steps of decoding sequences keep their order but for those that come and go, and so do their entries.
    """

    def __init__(self) -> None:
        self.entries: list[Trail] = []
        self.room = 0
        self.factors: dict[str, Factors] = {}

    def arrange(self, entries: Many[Trail], adapters: Mapping[str, Adapter]) -> None:
        """Have these entries first, in their order."""
        ranks = {path: _ranks([adapters[id_] for id_ in path]) for path in set(entries)}
        needed = {name: max(rank.get(name, 0) for rank in ranks.values()) for found in ranks.values() for name in found}
        held = {name: factors.a.shape[3] for name, factors in self.factors.items()}
        fits = all(rank <= held.get(name, 0) for name, rank in needed.items())
        if len(entries) > self.room or not fits or any(2 * needed.get(name, 0) < rank for name, rank in held.items()):
            self._make(1 << (len(entries) - 1).bit_length(), needed, adapters)
        for index, path in enumerate(entries):
            if index == len(self.entries):
                self.entries.append(())
            if self.entries[index] != path:
                self._write(index, [adapters[id_] for id_ in path])
                self.entries[index] = path

    def _make(self, room: int, ranks: Mapping[str, int], adapters: Mapping[str, Adapter]) -> None:
        """Empty room for entries of these ranks."""
        self.room, self.entries = room, []
        like = {name: factors for adapter in adapters.values() for name, factors in adapter.items()}
        self.factors = {}
        for name, rank in ranks.items():
            a, b = like[name].a, like[name].b
            self.factors[name] = Factors(
                a.new_zeros((len(a), room, a.shape[1], rank)), b.new_zeros((len(b), room, rank, b.shape[2]))
            )

    def _write(self, index: int, path: Many[Adapter]) -> None:
        for name, held in self.factors.items():
            begin = 0
            for factors in (adapter[name] for adapter in path if name in adapter):
                end = begin + factors.a.shape[2]
                held.a[:, index, :, begin:end] = factors.a
                held.b[:, index, begin:end] = factors.b
                begin = end
            held.a[:, index, :, begin:] = 0
            held.b[:, index, begin:] = 0


def _ranks(path: Iterable[Adapter]) -> dict[str, int]:
    """The sum of ranks of each site that a path changes."""
    ranks: dict[str, int] = {}
    for adapter in path:
        for name, factors in adapter.items():
            ranks[name] = ranks.get(name, 0) + factors.a.shape[2]
    return ranks


class Mix:
    """The changes of a step's rows. Good until the stack is arranged for another step."""

    def __init__(self, paths: tuple[Trail, ...], adapters: Mapping[str, Adapter], stack: Stack) -> None:
        self.paths = paths
        rows: dict[Trail, list[int]] = {}
        for row, path in enumerate(paths):
            if path:
                rows.setdefault(path, []).append(row)
        changed = sorted(row for own in rows.values() for row in own)
        # A path with many rows makes several entries, so that padding stays below the number of rows.
        self.size = -(-len(changed) // len(rows))
        cut = [(path, own[i : i + self.size]) for path, own in rows.items() for i in range(0, len(own), self.size)]
        stack.arrange([path for path, _ in cut], adapters)
        count = len(cut)
        self.factors = {
            name: [(a[:count], b[:count]) for a, b in zip(factors.a, factors.b, strict=True)]
            for name, factors in stack.factors.items()
        }
        padded = [row for _, own in cut for row in own + own[:1] * (self.size - len(own))]
        places = {row: entry * self.size + i for entry, (_, own) in enumerate(cut) for i, row in enumerate(own)}
        self.whole = len(changed) == len(paths)
        self.plain = self.whole and padded == changed
        device = next(iter(stack.factors.values())).a.device
        self._taken = torch.tensor(padded, device=device)
        self._back = torch.tensor([places[row] for row in changed], device=device)
        self._rows = torch.tensor(changed, device=device)

    def add(self, name: str, layer: int, x: Tensor, y: Tensor) -> None:
        """Add each row's change of a site to y (rows x outputs, contiguous), of its inputs x (rows x inputs)."""
        factors = self.factors.get(name)
        if factors is None:
            return
        a, b = factors[layer]
        x = x.to(a.dtype)
        grouped = (x if self.plain else x.index_select(0, self._taken)).view(len(a), self.size, -1)
        low = torch.bmm(grouped, a)
        if self.plain and y.dtype == low.dtype:
            y.view(len(a), self.size, -1).baddbmm_(low, b)
            return
        change = torch.bmm(low, b).view(-1, b.shape[2])
        if self.plain:
            y.add_(change)
        elif self.whole:
            y.add_(change.index_select(0, self._back))
        else:
            y.index_add_(0, self._rows, change.index_select(0, self._back).to(y.dtype))

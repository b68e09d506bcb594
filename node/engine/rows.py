"""`Rows`: dense copies of the running sequences' keys and values, one row each, side by side by capacity.

A row is a copy: the pool has everything that is in it, so any row may go at any time. It is filled when its sequence
first runs, gets each step's tokens beside the pool, and is given up when its sequence stops running. Rows of sequences
in one step have similar lengths within a group, so that one padded product serves them all: capacities are powers of
two, and less than half of a row (or `LEAST` tokens) is padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from node.engine.attention import Piece, Pool, Segment, Shape, only_own, visible
from node.engine.outline import ModelOutline
from node.engine.scheduler import Piece as Work
from node.engine.sequence import Sequence, Status

LEAST = 256  # tokens of the smallest row
ALIGNED = 16  # products run over multiples of so many tokens


@dataclass(slots=True, eq=False)
class Row:
    """A sequence in a group. `filled` tokens from its start are there."""

    sequence: Sequence
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of a group: what is multiplied, and everything as elements and as vectors, to write into."""

    keys: Tensor
    values: Tensor
    key_elements: Tensor
    value_vectors: Tensor


class Group:
    """Rows of one capacity, without holes.

    `keys` is layers x room x key heads x head_dim x capacity, `values` layers x room x key heads x capacity x head_dim:
    in both products of attention the tokens of the right hand lie as the library multiplies them fastest, which for a
    few queries and many tokens makes a factor of two to three.
    """

    def __init__(self, capacity: int, like: Pool, kv_heads: int) -> None:
        self.capacity = capacity
        self.rows: list[Row] = []
        pool = like.tensor
        self.keys = pool.new_zeros((len(pool), 0, kv_heads, pool.shape[-1], capacity))
        self.values = pool.new_zeros((len(pool), 0, kv_heads, capacity, pool.shape[-1]))
        self._parts: tuple[tuple[int, int], list[Part]] = ((0, 0), [])

    @property
    def room(self) -> int:
        """Rows that fit."""
        return self.keys.shape[1]

    def resize(self, room: int) -> None:
        """Make room for so many rows, those in use kept."""
        self.keys, self.values = (_resized(held, room, len(self.rows)) for held in (self.keys, self.values))
        self._parts = ((0, 0), [])

    def parts(self, matrices: int, length: int) -> list[Part]:
        """Each layer's first matrices, up to a length. Mostly those of the step before: making views takes time too."""
        if self._parts[0] != (matrices, length):
            flat = [
                (keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in zip(self.keys, self.values, strict=True)
            ]
            views = [
                Part(k[:matrices, :, :length], v[:matrices, :length], k.view(-1), v.view(-1, v.shape[-1]))
                for k, v in flat
            ]
            self._parts = ((matrices, length), views)
        return self._parts[1]

    def fill(self, index: int, start: int, keys_values: Tensor) -> None:
        """Write layers x 2 x key heads x tokens x head_dim into a row from token `start` on."""
        stop = start + keys_values.shape[3]
        self.keys[:, index, :, :, start:stop] = keys_values[:, 0].transpose(-1, -2)
        self.values[:, index, :, start:stop] = keys_values[:, 1]

    def remove(self, index: int) -> None:
        """Give a row up; the last one takes its place."""
        last = self.rows.pop()
        if index < len(self.rows):
            filled, source = slice(0, last.filled), len(self.rows)
            self.rows[index] = last
            self.keys[:, index, ..., filled] = self.keys[:, source, ..., filled]
            self.values[:, index, :, filled] = self.values[:, source, :, filled]


def _resized(held: Tensor, room: int, used: int) -> Tensor:
    larger = held.new_zeros((len(held), room, *held.shape[2:]))
    larger[:, :used] = held[:, :used]
    return larger


class Rows:
    """The rows of one runner, in groups by capacity. `most_tokens` bounds what all groups together have room for."""

    def __init__(self, outline: ModelOutline, pool: Pool, most_tokens: int) -> None:
        self.shape = Shape(outline)
        self.pool = pool
        self.most_tokens = most_tokens
        self.groups: dict[int, Group] = {}

    @property
    def tokens(self) -> int:
        """Tokens that there is room for."""
        return sum(group.room * group.capacity for group in self.groups.values())

    def segments(self, pieces: Iterable[Work]) -> list[tuple[Segment, list[Work]]]:
        """How the attention of a step is computed, and the pieces of each part in the order of its tokens."""
        work = {piece.sequence: piece for piece in pieces}
        kept = self._tidy(work)
        placed = {sequence: self._place(piece, kept.get(sequence)) for sequence, piece in work.items()}
        parts: list[tuple[Segment, list[Work]]] = []
        for group in self.groups.values():
            chosen = [
                (index, piece)
                for index, row in enumerate(group.rows)
                if (piece := work.get(row.sequence)) is not None and piece.count == 1
            ]
            if chosen:
                active = [index for index, _ in chosen]
                positions = [piece.start for _, piece in chosen]
                parts.append((Decoding(self.shape, group, active, positions), [piece for _, piece in chosen]))
        for piece in work.values():
            place = placed[piece.sequence]
            if place is None or piece.count > 1:
                parts.append((self._alone(piece, place), [piece]))
        return parts

    def _alone(self, piece: Work, place: tuple[Group, int] | None) -> Segment:
        """A piece by itself: in its row, or without one straight out of the pool."""
        stop = piece.start + piece.count
        if place is None:
            slots = torch.tensor(self.pool.slots(piece.sequence.blocks, 0, stop), device=self.pool.tensor.device)
            return Piece(self.shape, lambda layer, _: self.pool.read(layer, slots), piece.start, piece.count)
        group, index = place

        def through_row(layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = group.keys[layer, index, :, :, :stop], group.values[layer, index, :, :stop]
            own_keys, own_values = only_own(layer, keys_values)
            keys[:, :, piece.start :] = own_keys.transpose(1, 2)
            values[:, piece.start :] = own_values
            return (keys.transpose(1, 2), values) if piece.start else (own_keys, own_values)

        return Piece(self.shape, through_row, piece.start, piece.count)

    def _tidy(self, work: dict[Sequence, Work]) -> dict[Sequence, tuple[Group, int]]:
        """Give up rows of sequences that do not run any more or outgrow them. Returns those that are left."""
        for group in list(self.groups.values()):
            for index in reversed(range(len(group.rows))):
                row = group.rows[index]
                piece = work.get(row.sequence)
                if piece is None:
                    if row.sequence.status is not Status.RUNNING:
                        group.remove(index)
                elif piece.start + piece.count > group.capacity:
                    group.remove(index)
            if not group.rows:
                del self.groups[group.capacity]
        return {row.sequence: (group, i) for group in self.groups.values() for i, row in enumerate(group.rows)}

    def _place(self, piece: Work, kept: tuple[Group, int] | None) -> tuple[Group, int] | None:
        """The row of this sequence, with all of its earlier tokens; None where there is no room for one."""
        if kept is None:
            capacity = max(LEAST, 1 << (piece.start + piece.count - 1).bit_length())
            group = self.groups.get(capacity) or Group(capacity, self.pool, self.shape.kv_heads)
            if len(group.rows) == group.room:
                more = max(1, group.room)
                if self.tokens + more * capacity > self.most_tokens:
                    return None
                group.resize(group.room + more)
            self.groups[capacity] = group
            group.rows.append(Row(piece.sequence))
            kept = (group, len(group.rows) - 1)
        self._fill(*kept, piece)
        return kept

    def _fill(self, group: Group, index: int, piece: Work) -> None:
        """Copy what the row lacks of the tokens before the piece; the step itself writes those of the piece."""
        row = group.rows[index]
        if row.filled < piece.start:
            slots = self.pool.slots(piece.sequence.blocks, row.filled, piece.start)
            group.fill(index, row.filled, self.pool.read_all(torch.tensor(slots, device=group.keys.device)))
        row.filled = piece.start + piece.count


class Decoding:
    """One token each of several rows of a group, at `positions`, in one padded product."""

    def __init__(self, shape: Shape, group: Group, active: list[int], positions: list[int]) -> None:
        self.shape, self.count = shape, len(active)
        self.span = active[-1] + 1
        rows, self.positions = torch.tensor([active, positions], device=group.keys.device).unbind(0)
        self.rows = None if self.span == self.count else rows  # rows between them compute what nobody reads
        self.length = min(group.capacity, -(-(max(positions) + 1) // ALIGNED) * ALIGNED)
        self.parts = group.parts(self.span * shape.kv_heads, self.length)
        _, _, heads, dimensions, capacity = group.keys.shape
        matrices = rows[:, None] * heads + torch.arange(heads, device=rows.device)
        at = self.positions[:, None]
        # Places of the new tokens in one layer: of keys by element, of values by vector.
        columns = torch.arange(dimensions, device=rows.device) * capacity
        self.key_places = (matrices * (dimensions * capacity) + at)[..., None] + columns
        self.value_places = matrices * capacity + at
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """See `Segment`."""
        shape, window = self.shape, self.shape.windows[layer]
        part = self.parts[layer]
        own_keys, own_values = keys_values.chunk(2, 1)
        part.key_elements.index_put_((self.key_places,), own_keys)
        part.value_vectors.index_put_((self.value_places,), own_values)
        if self.rows is not None:
            spread = queries.new_zeros((self.span, *queries.shape[1:]))
            queries = spread.index_copy_(0, self.rows, queries)
        if window not in self._masks:
            self._masks[window] = self._mask(window, queries.dtype)
        grouped = queries.reshape(self.span * shape.kv_heads, shape.shared, -1)
        found = shape.weigh(grouped, part.keys, part.values, self._masks[window]).view(self.span, -1)
        return found if self.rows is None else found.index_select(0, self.rows)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Matrices x 1 x tokens."""
        positions = self.positions
        if self.rows is not None:
            positions = positions.new_zeros(self.span).index_copy_(0, self.rows, positions)
        mask = visible(positions, 0, self.length, window, dtype)
        return mask.repeat_interleave(self.shape.kv_heads, 0)[:, None]

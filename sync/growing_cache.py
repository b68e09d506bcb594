"""A key-value cache with room behind what it holds: a step of decoding writes its own tokens and copies no others.

transformers' DynamicCache makes all keys and values anew at every step, and under autocast attention casts all of them
each time: together half of the time of answering in large batches.
"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, Final

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM: Final = 64  # tokens that are made room for at once


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of this configuration. Layers that are more than keys and values stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class SharedBeginning:
    """What a model has read in one row, for many rows that each go on in their own way."""

    def __init__(self, read: DynamicCache) -> None:
        self.read = read
        self._rooms: dict[tuple[int, int], list[torch.Tensor]] = {}

    def among(self, rows: int) -> DynamicCache:
        """The beginning for so many rows. It takes the memory of the one before, which must not be used any more."""
        cache = copy(self.read)
        cache.layers = [self._layer(number, rows) for number in range(len(self.read.layers))]
        return cache

    def _layer(self, number: int, rows: int) -> Any:
        layer = self.read.layers[number]
        if not isinstance(layer, _GrowingLayer):
            one = deepcopy(layer)
            one.batch_repeat_interleave(rows)
            return one
        held = layer.keys, layer.values
        if (number, rows) not in self._rooms:
            self._rooms[number, rows] = [_roomy(one.expand(rows, -1, -1, -1), one, 0) for one in held]
        one = copy(layer)
        one.key_room, one.value_room = rooms = self._rooms[number, rows]
        one.keys, one.values = (room[..., : layer.keys.shape[-2], :] for room in rooms)
        return one


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values, rows x heads x tokens x width, as the beginning of tensors with more tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self.key_room = self.value_room = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new tokens behind those that are here; all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.key_room = _behind(self.keys, self.key_room, key_states)
        self.values, self.value_room = _behind(self.values, self.value_room, value_states)
        return self.keys, self.values


def _behind(held: torch.Tensor, room: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens with the new ones behind them, and the tensor that they are the beginning of."""
    start = held.shape[-2] if held.numel() else 0
    end = start + new.shape[-2]
    begins = start and held.data_ptr() == room.data_ptr() and held.shape[0] == room.shape[0]
    if not begins or end > room.shape[-2]:
        room = _roomy(held, new, new.shape[-2])
    room[..., start:end, :] = new
    return room[..., :end, :], room


def _roomy(held: torch.Tensor, like: torch.Tensor, more: int) -> torch.Tensor:
    """What is held, of the kind of `like`, with room for `more` tokens and ROOM behind it."""
    rows, start = (held.shape[0], held.shape[-2]) if held.numel() else (like.shape[0], 0)
    room = like.new_empty(rows, like.shape[1], start + more + ROOM, like.shape[-1], dtype=_kept_as(like))
    if start:
        room[..., :start, :] = held
    return room


def _kept_as(new: torch.Tensor) -> torch.dtype:
    """What attention will read them as: under autocast it would cast all that is held at every step."""
    where = new.device.type
    return torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else new.dtype

"""Adapter files by hand, byte for byte: honest ones of many shapes, and whatever else a sender may write."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from registry.documents import Adapter, AdapterShape, File

Tensors = dict[str, np.ndarray[Any, Any]]
Header = dict[str, Any]

HIDDEN, INNER, LAYERS = 32, 64, 2  # of the base of `tests.attacks.scene`
SIZES = {  # target -> (out, in)
    "q_proj": (32, 32),
    "k_proj": (16, 32),
    "v_proj": (16, 32),
    "o_proj": (32, 32),
    "gate_proj": (64, 32),
    "up_proj": (64, 32),
    "down_proj": (32, 64),
}
SHAPE = AdapterShape(rank=4, alpha=8.0, targets=("q_proj", "v_proj"), dtype="F32")
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
FIRST_B = FIRST.replace("lora_A", "lora_B")


def honest(shape: AdapterShape = SHAPE, seed: int = 1, size: float = 0.004) -> Tensors:
    """Factors as training leaves them; `size` is the deviation of the numbers of B."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer in range(LAYERS):
        for target in shape.targets:
            block = "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            n_out, n_in = SIZES[target]
            name = f"base_model.model.model.layers.{layer}.{block}.{target}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, n_in**-0.5, (shape.rank, n_in)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, size, (n_out, shape.rank)).astype(np.float32)
    return tensors


def encoded(numbers: np.ndarray[Any, Any], dtype: str) -> bytes:
    """Numbers as they stand in a file."""
    if dtype == "BF16":
        return (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def laid_out(tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32") -> tuple[Header, bytes]:
    """The header and the numbers of a sound file."""
    header: Header = {}
    data = b""
    for name, numbers in tensors.items():
        piece = encoded(numbers, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(numbers.shape),
            "data_offsets": [len(data), len(data) + len(piece)],
        }
        data += piece
    return header, data


def joined(header: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    """A file of a header and numbers, whatever they are; `length` is the header's length that is told."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def written(tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32") -> bytes:
    """A sound file."""
    return joined(*laid_out(tensors, dtype))


def with_header(change: Callable[[Header], object]) -> bytes:
    """An honest file whose header was changed and whose numbers were not."""
    header, data = laid_out(honest())
    change(header)
    return joined(header, data)


def with_tensors(change: Callable[[Tensors], object], shape: AdapterShape = SHAPE) -> bytes:
    """An honest file with other tensors, rightly laid out."""
    tensors = honest(shape)
    change(tensors)
    return written(tensors, shape.dtype)


def declared(data: bytes, shape: AdapterShape = SHAPE, **lies: Any) -> Adapter:
    """What a sender says of a file; `lies` change name, size or sha256."""
    file = {"name": "adapter_model.safetensors", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return Adapter(file=File(**(file | lies)), shape=shape)

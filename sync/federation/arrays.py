"""Low-rank factors as Flower's arrays and back, in one byte form: `<module>.a` (rank x in), `<module>.b` (out x rank).

Every foreign array must be exactly what numpy writes for a float32 array of the expected shape, so nothing of a peer's
is given to a parser. Which numbers are good is left to `sync.federation.checks`.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

from registry.documents import AdapterShape
from registry.errors import BadData
from registry.rounds import Half
from sync.checks.expected import expected_adapter_tensors
from sync.delta import PEFT_PREFIX, Delta, Factor, uniform

NUMPY: Final = "numpy.ndarray"
FLOAT: Final = np.dtype("<f4")


def shapes_of(base_config: Mapping[str, Any], shape: AdapterShape) -> dict[str, tuple[int, int]]:
    """The names and shapes of the arrays of an adapter over a base, in order. Raises BadData as the checks do."""
    tensors = expected_adapter_tensors(base_config, shape)
    return {
        name.removeprefix(PEFT_PREFIX).replace(".lora_A.weight", ".a").replace(".lora_B.weight", ".b"): size
        for name, size in sorted(tensors.items())
    }


def fresh(shapes: Mapping[str, tuple[int, int]], seed: int) -> Delta:
    """The adapter that rounds begin with: A drawn as PEFT does (Kaiming uniform, a = √5), B zero."""
    rng = torch.Generator().manual_seed(seed)
    drawn: dict[str, Factor] = {}
    for name, (rank, n_in) in shapes.items():
        if name.endswith(".a"):
            bound = 1 / math.sqrt(n_in)
            out = shapes[f"{name[:-2]}.b"][0]
            a = torch.empty(rank, n_in).uniform_(-bound, bound, generator=rng)
            drawn[name[:-2]] = Factor(a, torch.zeros(out, rank))
    return drawn


def to_record(delta: Delta) -> ArrayRecord:
    """The factors as arrays, all modules of one rank."""
    return ArrayRecord({name: _array(data) for name, data in _numbers(delta).items()})


def to_delta(record: ArrayRecord, shapes: Mapping[str, tuple[int, int]]) -> Delta:
    """The factors of foreign arrays (J3); raises BadData unless names, types, shapes and bytes are the expected."""
    if set(record) != set(shapes):
        odd = sorted(set(record) ^ set(shapes))
        raise BadData(f"the arrays are not those of the task: {len(odd)} too many or missing, such as {odd[0]!a:.80}")
    read = {name: _read(name, record[name], shape) for name, shape in shapes.items()}
    modules = sorted({name[:-2] for name in shapes})
    return {name: Factor(read[f"{name}.a"], read[f"{name}.b"]) for name in modules}


def with_half(delta: Delta, start: Delta, half: Half) -> Delta:
    """The factors with one half as it was at the start; that half says nothing of anybody's rows."""
    if not half:
        return delta
    return {
        name: Factor(start[name].a, factor.b) if half == "a" else Factor(factor.a, start[name].b)
        for name, factor in delta.items()
    }


def digest_of(delta: Delta) -> str:
    """SHA-256 over the arrays in order of their names: name, shape and little-endian float32 numbers (J2)."""
    found = hashlib.sha256()
    for name, numbers in _numbers(delta).items():
        found.update(f"{name} {numbers.shape[0]}x{numbers.shape[1]}\n".encode())
        found.update(np.ascontiguousarray(numbers, dtype=FLOAT).tobytes())
    return found.hexdigest()


def _numbers(delta: Delta) -> dict[str, np.ndarray[Any, Any]]:
    padded = uniform(delta)
    halves = {f"{name}.{half}": getattr(factor, half) for name, factor in padded.items() for half in ("a", "b")}
    return {name: half.detach().float().cpu().contiguous().numpy() for name, half in sorted(halves.items())}


def _array(numbers: np.ndarray[Any, Any]) -> Array:
    return Array(np.ascontiguousarray(numbers, dtype=FLOAT))


def _head(shape: tuple[int, int]) -> bytes:
    """What numpy's file format puts before the numbers."""
    head = io.BytesIO()
    fields = {"descr": FLOAT.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()


def _read(name: str, array: Array, shape: tuple[int, int]) -> torch.Tensor:
    head = _head(shape)
    size = len(head) + FLOAT.itemsize * shape[0] * shape[1]
    if array.stype != NUMPY or array.dtype != "float32" or tuple(array.shape) != shape:
        said = f"{array.stype!a:.40} {array.dtype!a:.40} {tuple(array.shape)!a:.60}"
        raise BadData(f"{name} is declared as {said}; a float32 array of {shape} was asked for")
    if len(array.data) != size or not array.data.startswith(head):
        raise BadData(f"{name} is not the array that it is declared as: {len(array.data)} bytes, {size} were expected")
    numbers = np.frombuffer(array.data, dtype=FLOAT, offset=len(head)).reshape(shape)
    return torch.from_numpy(numbers.copy())

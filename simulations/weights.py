"""The smallest base and adapters that the checks of files accept. What such weights would answer is nobody's business.

Layout: safetensors (github.com/huggingface/safetensors, README): a length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from registry.documents import Adapter, AdapterShape, BaseManifest, CheckResult, File
from sync.checks.files import check_files

WIDTH: Final = 4
SHAPE: Final = AdapterShape(rank=1, alpha=1.0, targets=("q_proj",), dtype="F32")
CONFIG: Final = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
}
BASE_NAME: Final = "banyan/grain"
_MODULE: Final = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter_bytes(label: str) -> bytes:
    """An adapter of its own for every label, of the shape `SHAPE`."""
    bits = hashlib.sha256(label.encode()).digest()
    values = [one / 256 for one in bits[: 2 * WIDTH]]
    return _safetensors(
        {
            f"{_MODULE}.lora_A.weight": ((1, WIDTH), values[:WIDTH]),
            f"{_MODULE}.lora_B.weight": ((WIDTH, 1), values[WIDTH:]),
        }
    )


def base_files() -> dict[str, bytes]:
    """The files of the base by name."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": _safetensors({"model.norm.weight": ((WIDTH,), [1.0] * WIDTH)}),
    }


def base_manifest() -> BaseManifest:
    """The base."""
    files = tuple(described(name, data) for name, data in base_files().items())
    return BaseManifest(name=BASE_NAME, family="llama", files=files, licence="Apache-2.0")


def described(name: str, data: bytes) -> File:
    """A file as documents name it."""
    return File(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def check_adapter(file: Path, declared: Adapter) -> list[CheckResult]:
    """Stage 2 of the checks, the real one, with a watch that stands still."""
    return check_files(file, declared, CONFIG, clock=lambda: 0.0)


def _safetensors(tensors: Mapping[str, tuple[tuple[int, ...], Sequence[float]]]) -> bytes:
    header: dict[str, object] = {}
    data = b""
    for name, (shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data

"""Tiny adapters for a tiny Llama-like base, honest ones and ones that were tampered with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from registry.documents import Adapter, AdapterShape, File

State = dict[str, Tensor]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SIZES = {  # target -> (out, in) of the base below
    "q_proj": (32, 32),
    "k_proj": (16, 32),
    "v_proj": (16, 32),
    "o_proj": (32, 32),
    "gate_proj": (48, 32),
    "up_proj": (48, 32),
    "down_proj": (32, 48),
}


@pytest.fixture
def base_config() -> dict[str, Any]:
    """config.json of a base with two layers."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
    }


def honest_state(shape: AdapterShape, seed: int) -> State:
    """Random factors as training leaves them, spelled out by hand rather than by the code under test."""
    random = torch.Generator().manual_seed(seed)
    state: State = {}
    for layer in range(2):
        for target in shape.targets:
            block = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            n_out, n_in = SIZES[target]
            key = f"base_model.model.model.layers.{layer}.{block}.{target}"
            a = torch.randn(shape.rank, n_in, generator=random) / n_in**0.5
            b = torch.randn(n_out, shape.rank, generator=random) * 0.02
            state[f"{key}.lora_A.weight"] = a.to(DTYPES[shape.dtype])
            state[f"{key}.lora_B.weight"] = b.to(DTYPES[shape.dtype])
    return state


def declare(file: Path, shape: AdapterShape) -> Adapter:
    """What a sender says of a file, rightly."""
    data = file.read_bytes()
    return Adapter(
        file=File(name="adapter_model.safetensors", size=len(data), sha256=hashlib.sha256(data).hexdigest()),
        shape=shape,
    )


MakeAdapter = Callable[..., tuple[Path, Adapter]]


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Write an adapter file and the declaration that its sender would sign.

    `change` may alter the tensors, `rewrite` the bytes of the file; the declaration is of what was written.
    """

    def make(
        *,
        rank: int = 4,
        alpha: float = 8.0,
        targets: tuple[str, ...] = TARGETS,
        dtype: str = "F32",
        seed: int = 0,
        change: Callable[[State], object] | None = None,
        rewrite: Callable[[bytes], bytes] | None = None,
    ) -> tuple[Path, Adapter]:
        shape = AdapterShape.model_validate({"rank": rank, "alpha": alpha, "targets": targets, "dtype": dtype})
        state = honest_state(shape, seed)
        if change:
            change(state)
        file = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(state, file, metadata={"format": "pt"})
        if rewrite:
            file.write_bytes(rewrite(file.read_bytes()))
        return file, declare(file, shape)

    return make

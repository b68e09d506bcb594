"""Low-rank deltas: the algebra of adapters on ΔW = B·A, the scale alpha/r folded into B.

A delta maps a module's name in the base ("model.layers.0.self_attn.q_proj") to its factors. Every norm and every
recompression is taken on the product, never on A and B apart, so that neither alpha nor a rescaling (cB)(A/c) hides
anything. Checking a foreign file before it is read here is left to `sync.checks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from registry.documents import AdapterShape
from sync.stack_shape import StackShape

PEFT_PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Factor:
    """ΔW = b @ a of one module: `a` is (rank x in), `b` is (out x rank), both float32."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """Number of rank-one terms; the product's true rank may be lower."""
        return int(self.a.shape[0])

    def product(self) -> Tensor:
        """ΔW in full (out x in)."""
        return self.b @ self.a


Delta = Mapping[str, Factor]


def norm(factor: Factor) -> float:
    """Frobenius norm of ΔW through the Gram matrices: ‖BA‖² = tr(BᵀB·AAᵀ)."""
    gram_a = factor.a.double() @ factor.a.double().T
    gram_b = factor.b.double().T @ factor.b.double()
    return float((gram_a * gram_b).sum().clamp(min=0).sqrt())


def total_norm(delta: Delta) -> float:
    """Frobenius norm of ΔW over all modules."""
    return float(sum(norm(factor) ** 2 for factor in delta.values()) ** 0.5)


def terms(factor: Factor) -> float:
    """The norms of the rank-one terms of ΔW, added up: Σ‖bᵢ‖·‖aᵢ‖, never below ‖ΔW‖ and the same for (cB)(A/c)."""
    return float((factor.a.double().norm(dim=1) * factor.b.double().norm(dim=0)).sum())


def scaled(delta: Delta, by: float) -> Delta:
    """by·ΔW."""
    return {name: Factor(factor.a, factor.b * by) for name, factor in delta.items()}


def stack(deltas: Sequence[Delta]) -> Delta:
    """The exact sum of deltas, stacked along the rank: Σ BᵢAᵢ = [B₁ … Bₙ]·[A₁; …; Aₙ] (FLoRA, arXiv 2409.05976)."""
    names = sorted({name for delta in deltas for name in delta})
    parts = {name: [delta[name] for delta in deltas if name in delta] for name in names}
    return {
        name: Factor(torch.cat([f.a for f in factors]), torch.cat([f.b for f in factors], dim=1))
        for name, factors in parts.items()
    }


def recompress(delta: Delta, rank: int) -> tuple[Delta, float]:
    """The best delta of at most `rank` per module, and the relative Frobenius error of the whole (0 when exact).

    SVD of BA through QR of the factors, so ΔW is never formed: B = Q_b R_b, Aᵀ = Q_a R_a, SVD of R_b R_aᵀ.
    """
    compressed: dict[str, Factor] = {}
    lost = kept = 0.0
    for name, factor in delta.items():
        if factor.rank <= rank:
            compressed[name] = factor
            kept += norm(factor) ** 2
            continue
        q_b, r_b = torch.linalg.qr(factor.b.double())
        q_a, r_a = torch.linalg.qr(factor.a.double().T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        root = s[:rank].sqrt()
        compressed[name] = Factor(
            a=(root[:, None] * (vt[:rank] @ q_a.T)).float(),
            b=((q_b @ u[:, :rank]) * root).float(),
        )
        lost += float((s[rank:] ** 2).sum())
        kept += float((s[:rank] ** 2).sum())
    total = lost + kept
    return compressed, (lost / total) ** 0.5 if total > 0 else 0.0


def zero(base_modules: Mapping[str, tuple[int, int]]) -> Delta:
    """A rank-one delta that changes nothing; `base_modules` gives (out, in) per module."""
    return {name: Factor(torch.zeros(1, n_in), torch.zeros(out, 1)) for name, (out, n_in) in base_modules.items()}


def read_adapter(file: Path, shape: AdapterShape) -> Delta:
    """Read a checked PEFT LoRA file (`…q_proj.lora_A.weight`, `….lora_B.weight`) with its scale alpha/rank."""
    tensors = load_file(file)
    scale = shape.alpha / shape.rank
    suffix = ".lora_A.weight"
    return {
        key.removeprefix(PEFT_PREFIX).removesuffix(suffix): Factor(
            a=tensors[key].float(), b=tensors[key.replace(".lora_A.", ".lora_B.")].float() * scale
        )
        for key in sorted(tensors)
        if key.endswith(suffix)
    }


def uniform(delta: Delta) -> Delta:
    """The same delta with every module padded by zeros to the largest rank, as PEFT's format wants it."""
    rank = max(factor.rank for factor in delta.values())
    return {
        name: Factor(
            a=torch.nn.functional.pad(factor.a, (0, 0, 0, rank - factor.rank)),
            b=torch.nn.functional.pad(factor.b, (0, rank - factor.rank)),
        )
        for name, factor in delta.items()
    }


def write_adapter(delta: Delta, file: Path) -> AdapterShape:
    """Write a delta as a PEFT LoRA file in float32 with alpha = rank, so that its scale is 1.

    Raises ValueError, and writes nothing, when its rank is more than an adapter may have.
    """
    shape = AdapterShape.model_validate(_form(delta))
    _write_factors(delta, file)
    return shape


def write_stack(delta: Delta, file: Path) -> StackShape:
    """The same for the sum of a path, whatever its rank."""
    _write_factors(delta, file)
    return StackShape.model_validate(_form(delta))


def _form(delta: Delta) -> dict[str, object]:
    rank = max(factor.rank for factor in delta.values())
    return {"rank": rank, "alpha": float(rank), "targets": targets_of(delta), "dtype": "F32"}


def _write_factors(delta: Delta, file: Path) -> None:
    padded = uniform(delta)
    tensors: dict[str, Tensor] = {}
    for name, factor in sorted(padded.items()):
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = factor.a
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = factor.b
    write_tensors(tensors, file, {"format": "pt"})


def write_tensors(tensors: Mapping[str, Tensor], file: Path, note: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is there whole or not at all, wherever the process is killed."""
    partial = file.with_name(file.name + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=note)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def targets_of(names: Iterable[str]) -> tuple[str, ...]:
    """The module suffixes ("q_proj") that a delta touches."""
    return tuple(sorted({name.rsplit(".", 1)[-1] for name in names}))


def write_peft_folder(delta: Delta, folder: Path, base: str) -> StackShape:
    """Write `adapter_config.json` and the weights so that `PeftModel.from_pretrained` loads them over `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = write_stack(delta, folder / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(shape.targets),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return shape

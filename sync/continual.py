"""Going on with an adapter on new rows: how what earlier rows taught it is kept.

New factors are trained beside the old adapter, which stays as it is; their sum is then recompressed to a bound of rank.
*plain* does nothing more, *replay* puts earlier rows among the new ones (which rows, is the caller's affair),
*orthogonal* makes it costly for the new factors to read the directions that the old ones read (O-LoRA, arXiv
2310.14152), *osf* keeps them out of the directions in which the weights are strongest (arXiv 2504.07097).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from sync.delta import Delta, recompress, stack
from sync.model import LoadedModel

Method = Literal["plain", "replay", "orthogonal", "osf"]

PENALTY: Final = 0.5  # lambda of O-LoRA's own experiments
KEPT_SHARE: Final = 0.5  # of the singular directions of a matrix: what peft's OSF takes where nothing is said
NEGLIGIBLE: Final = 1e-6  # of the largest singular value


@dataclass(frozen=True, slots=True)
class Protected:
    """Directions that new factors B·A leave alone, by module, orthonormal.

    `inputs` (k x in) are kept from A, `outputs` (out x k) from B. With a `penalty`, touching them costs that much of
    the squared part of A that lies in them; without one they are never touched.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    penalty: float = 0.0

    def cost(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """What to add to the loss; None where touching is not possible at all. Names are "<module>.a"."""
        touched = [
            (parameters[f"{name}.a"] @ kept.T).square().sum()
            for name, kept in self.inputs.items()
            if f"{name}.a" in parameters
        ]
        return self.penalty * torch.stack(touched).sum() if self.penalty and touched else None

    @torch.no_grad()
    def confine(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Take the protected part out of factors or of their gradients, in place; nothing where there is a penalty."""
        if self.penalty:
            return
        for name, kept in self.inputs.items():
            if (a := tensors.get(f"{name}.a")) is not None:
                a -= (a @ kept.T) @ kept
        for name, kept in self.outputs.items():
            if (b := tensors.get(f"{name}.b")) is not None:
                b -= kept @ (kept.T @ b)


def protected_by(method: Method, loaded: LoadedModel, old: Delta, targets: tuple[str, ...]) -> Protected | None:
    """What a method protects, None for nothing; `loaded` is the model with the old adapter added."""
    if method == "orthogonal":
        return what_it_reads(old, loaded.device)
    if method == "osf":
        return strongest_directions(loaded, targets)
    return None


def what_it_reads(old: Delta, device: torch.device) -> Protected:
    """The row space of the old adapter's A, whose scale and basis say nothing: (cB)(A/c) is the same adapter."""
    inputs: dict[str, Tensor] = {}
    for name, factor in old.items():
        _, s, vt = torch.linalg.svd(factor.a.double(), full_matrices=False)
        kept = vt[s > NEGLIGIBLE * s.max()]
        if len(kept):
            inputs[name] = kept.float().to(device)
    return Protected(inputs=inputs, penalty=PENALTY)


def strongest_directions(loaded: LoadedModel, targets: tuple[str, ...]) -> Protected:
    """Half of the singular directions of every matrix, the strongest, on both sides: B stays out of U, A out of V.

    peft's OSF trains the other half in full, which is no delta of bounded rank; a LoRA that is kept out of the same
    directions is. It projects the gradients alone, after which Adam's steps leave the subspace: here the factors are
    projected as well.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, module in loaded.linear_modules():
        if name.rsplit(".", 1)[-1] in targets:
            u, s, vt = torch.linalg.svd(module.weight.detach().float(), full_matrices=False)
            count = int(len(s) * KEPT_SHARE)
            inputs[name], outputs[name] = vt[:count].contiguous(), u[:, :count].contiguous()
    return Protected(inputs, outputs)


def grown(old: Delta, new: Delta, bound: int) -> tuple[Delta, float]:
    """Old and new adapter as one of at most `bound` rank per module, and the relative error of that."""
    return recompress(stack([old, new]), bound)

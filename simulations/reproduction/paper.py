"""Table 1 of LoRA-A² (arXiv 2410.22815): RoBERTa-base, banking77, 30 clients, 50 rounds of 5 epochs; accuracy in %.

What it adapts follows from the uploads that it counts. FL+LoRA's 1.99 G parameters of rank 8 are 1.327 M of each client
and round: 8·Σ(in + out) over all six linear layers of each block, and nothing of the classifier. LoRA-A²'s 1.31 G are
1.32 times the half of that; by a choice among a global rank of 16 they could be 1.33 times that at most (the wide half
of a block's large layers, all 16 of its ranks), so 16 is what the authors seem to have had. Full fine-tuning, the
table's first row, is not played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLIENTS: Final = 30
GLOBAL_RANK: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """One column of the table: how labels are shared out among clients, and the rank."""

    alpha: float
    rank: int

    @property
    def name(self) -> str:
        """As the table heads it."""
        return f"Dir({self.alpha:g}) r{self.rank}"


EVEN, SKEWED, SKEWED_R1 = COLUMNS = (Column(0.5, 8), Column(0.01, 8), Column(0.01, 1))

TABLE: Final[dict[str, dict[Column, float]]] = {
    "fedit": {EVEN: 92.80, SKEWED: 60.96, SKEWED_R1: 45.78},
    "ffa-lora": {EVEN: 87.20, SKEWED: 40.88, SKEWED_R1: 33.68},
    "flexlora": {EVEN: 93.35, SKEWED: 69.84, SKEWED_R1: 42.75},
    "lora-a2": {EVEN: 93.24, SKEWED: 70.13, SKEWED_R1: 68.88},
}
# Parameters that all clients send in all rounds, beside those of FL+LoRA of the same rank.
UPLOADED: Final[dict[str, dict[int, float]]] = {
    "fedit": {8: 1.0, 1: 1.0},
    "ffa-lora": {8: 0.991 / 1.99, 1: 0.124 / 0.249},
    "flexlora": {8: 1.0, 1: 1.0},
    "lora-a2": {8: 1.31 / 1.99, 1: 0.270 / 0.249},
}

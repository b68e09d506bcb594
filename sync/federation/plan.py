"""What a federated run does, as its parent decided it, and what rules of aggregation it can use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from registry.errors import BadData
from registry.rounds import MAX_ROUNDS, Half
from sync.aggregate.rules import RULES
from sync.train import ALL_LINEAR

# Rules that average each half of the factors by itself: noise on the average then covers what one child can change.
PRIVATE_RULES: Final = ("fedit", "ffa-lora")


@dataclass(frozen=True, slots=True)
class CentralPrivacy:
    """Differential privacy that the parent adds: changes are cut to `clip` (norm), noise is `noise` times that."""

    noise: float
    clip: float


@dataclass(frozen=True, slots=True)
class RoundsPlan:
    """Everything that decides a run besides the children; times in seconds.

    Raises BadData for a plan that no run can follow.
    """

    rounds: int = 3
    rank: int = 16
    targets: tuple[str, ...] = ALL_LINEAR
    rule: str = "mean"
    f: int = 0  # how many of the contributions may lie
    least: int = 2  # contributions that a round needs
    deadline_s: float = 600.0  # of a round
    gather_s: float = 120.0  # for the first children to come
    private: CentralPrivacy | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MAX_ROUNDS or self.least < 1 or self.rank < 1:
            raise BadData(
                f"a run of {self.rounds} rounds with at least {self.least} children and rank {self.rank} is none",
                f"1 to {MAX_ROUNDS} rounds, at least 1 child",
            )
        if self.deadline_s <= 0 or self.gather_s <= 0:
            raise BadData("a round needs time", "give a deadline of some seconds")
        rule = RULES.get(self.rule)
        if rule is None or rule.needs:
            usable = ", ".join(name for name, one in RULES.items() if not one.needs)
            raise BadData(f"{self.rule!a:.60} is no rule that rounds can aggregate by", f"one of {usable}")
        rule.bound.check(self.rule, self.least, self.f)
        if self.private and self.rule not in PRIVATE_RULES:
            raise BadData(
                f"central privacy needs a rule that averages factors: {self.rule} does not, so nothing bounds what one "
                "child can change",
                f"aggregate by {' or '.join(PRIVATE_RULES)}",
            )
        if self.private and (self.private.noise <= 0 or self.private.clip <= 0):
            raise BadData("central privacy needs noise and a norm to clip to, both above 0", "noise 1, clip 1")

    def frozen(self, number: int) -> Half:
        """The half of the factors that stays as it is in a round: A in FFA-LoRA, in turn in RoLoRA and LoRA-A²."""
        if self.rule == "ffa-lora":
            return "a"
        if self.rule in ("rolora", "lora-a2"):
            return "a" if number % 2 else "b"
        return ""

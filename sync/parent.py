"""A parent at work: what checks and candidates need of it, and what its operator has set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from registry.paths import NodePath
from registry.rows import Row
from sync.compose import Composer
from sync.consolidate import CONSOLIDATION_TOKENS
from sync.inbox import Identity
from sync.model import LoadedModel
from sync.score import evaluate_rows
from sync.train import StepReport

MAX_JUDGED_ROWS = 2000


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """Everything about promotions that an operator can set."""

    rank_budget: int = 64
    epochs: int = 3
    learning_rate: float = 3e-3
    batch_tokens: int = CONSOLIDATION_TOKENS
    anchor_rows: int = 8000
    max_update_loss_points: float = 5.0
    max_loss_points: float = 1.0
    min_gain_kept: float = 0.9
    size_max_z: float = 6.0
    release_valid_days: int = 365
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """A parent at work: its models, its key, the rows that it keeps to itself for judging, its clock."""

    composer: Composer
    own: Identity
    runs: Path
    plan: PromotionPlan
    known_rows: Callable[[NodePath], list[Row]]  # hidden validation rows of a path; never leave this node
    now: Callable[[], datetime]
    keep_rows: Callable[[NodePath, list[Row]], None]  # adds to the known rows what a release has learned
    known_right: dict[tuple[str, int], list[bool]] = field(default_factory=dict)  # what a release answers of them
    on_step: Callable[[str, StepReport], None] = lambda path, report: None

    def known(self, path: str) -> list[Row]:
        """The rows that everything at a path is judged on."""
        return self.known_rows(NodePath.parse(path))[:MAX_JUDGED_ROWS]

    def right_before(self, loaded: LoadedModel, release: str, known: Sequence[Row], path: str) -> list[bool]:
        """Which of the known rows a release answers; measured once, as every update to it is compared with that."""
        key = release, hash(tuple(known))
        if key not in self.known_right:
            self.known_right[key] = evaluate_rows(loaded, known, path)[1]
        return self.known_right[key]

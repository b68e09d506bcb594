"""A parent at work: what checks and candidates need of it, and what its operator has set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from registry.paths import NodePath
from registry.rows import Row
from sync.checks.thresholds import Thresholds
from sync.compose import Composer
from sync.consolidate import CONSOLIDATION_TOKENS
from sync.delta import Delta
from sync.inbox import Identity
from sync.model import LoadedModel
from sync.score import evaluate_rows
from sync.train import StepReport, TrainPlan

MAX_JUDGED_ROWS = 2000
NEW_RANK = 16  # of an adapter that begins with answers alone


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """Everything about promotions that an operator can set."""

    rank_budget: int = 64
    aggregation: str = "mean"  # a rule of `sync.aggregate.rules`
    aggregation_f: int = 0  # how many of the updates in a release may lie
    epochs: int = 3
    learning_rate: float = 3e-3
    batch_tokens: int = CONSOLIDATION_TOKENS
    anchor_rows: int = 8000
    max_loss_points: float = 1.0
    min_gain_kept: float = 0.9
    prompts: int = 800  # of each child: what did not travel is made up for by own prompts and by sampled ones
    canaries: int = 64  # prompts that a release says to itself, asked of every candidate (G9)
    tries: int = 6  # candidates that are judged at most before the gate blames an update
    release_valid_days: int = 365
    measure_gain: bool = False  # what an update adds, of its transfer rows: costs another pass over them
    thresholds: Thresholds = field(default_factory=Thresholds)  # of the checks on one update
    seed: int = 1

    def consolidation(self, start: Delta) -> TrainPlan:
        """How a merge is trained on lessons, in which every pass over the rows is written out."""
        rank = max((factor.rank for factor in start.values()), default=NEW_RANK)
        return TrainPlan(
            rank=rank,
            alpha=float(rank),
            epochs=1,
            learning_rate=self.learning_rate,
            batch_tokens=self.batch_tokens,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Parent:
    """A parent at work: its models, its key, the rows that it keeps to itself for judging, its clock."""

    composer: Composer
    own: Identity
    runs: Path
    refused: Path  # where candidates that came to nothing are kept
    plan: PromotionPlan
    known_rows: Callable[[NodePath], list[Row]]  # hidden validation rows of a place itself; never leave this node
    now: Callable[[], datetime]
    keep_rows: Callable[[NodePath, list[Row]], None]  # adds to the known rows what a release has learned
    own_prompts: Callable[[NodePath], list[Row]] = lambda place: []  # unlabelled rows that the children answer
    canary_rows: Callable[[NodePath], list[Row]] = lambda path: []  # prompts of a path whose answers must stay
    known_right: dict[tuple[str, int], list[bool]] = field(default_factory=dict)  # what a release answers of them
    on_step: Callable[[str, StepReport], None] = lambda path, report: None

    def known(self, path: str) -> list[Row]:
        """The rows that updates to a path are judged on: its own, then those of the places above it, nearest first."""
        rows = [row for place in reversed(NodePath.parse(path).chain()) for row in self.known_rows(place)]
        return rows[:MAX_JUDGED_ROWS]

    def right_before(self, loaded: LoadedModel, release: str, known: Sequence[Row], path: str) -> list[bool]:
        """Which of the rows a release answers, asked as a path; measured once, as much is compared with that."""
        key = release, hash((path, tuple(known)))
        if key not in self.known_right:
            self.known_right[key] = evaluate_rows(loaded, known, path)[1] if known else []
        return self.known_right[key]

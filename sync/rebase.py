"""Downward: what a child does when its parent has a new release.

It tries four ways on its own held-out rows and on its parent's anchors:
*stay* (keep the pinned release), *adopt* (the new release below the own adapter, as it is), *adopt and consolidate*
(then a short training on own rows and the parent's anchors), *preserve* (take the release, subtract what it changed
from the own adapter, so that the function stays as it was up to the recompression's error). Its own knowledge comes
first: of the ways that lose nothing of it beyond the sampling error, it goes the one that knows most in all.

A graft, whose base is not its parent's, can take no weights. Its ways are *stay* and *distil*: to train its own adapter
on the parent's answers, which the anchors of a release are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from registry.rows import Row
from sync.chain import Link
from sync.compose import Composer
from sync.consolidate import Lesson, consolidate, lessons_as_examples
from sync.delta import Delta, recompress, scaled, stack
from sync.gate import ONE_SIDED_95, points_lost
from sync.model import LoadedModel, add
from sync.score import evaluate_rows
from sync.tokens import Example
from sync.train import StepReport, TrainPlan

Way = Literal["stay", "adopt", "adopt-and-consolidate", "preserve", "distil"]


@dataclass(frozen=True, slots=True)
class Option:
    """One way with what it measured: shares of rows answered rightly, and the own adapter that goes with it.

    `own_before` is what the release above knows of the own rows by itself.
    """

    way: Way
    own_rows: float
    parent_rows: float
    keeps_own: bool
    delta: Delta | None
    recompression_error: float = 0.0
    own_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Rebase:
    """A child at work on one new parent release.

    `own_train` and `own_test` are its private rows. The anchors of the parent's new release are `parent_news` (what the
    old release did not have), `parent_anchors` (what it had) and `parent_test`, rows of both held back to measure with.
    """

    composer: Composer
    own: Link
    old_above: list[Link]
    new_above: list[Link]
    own_train: Sequence[Row]
    own_test: Sequence[Row]
    parent_anchors: Sequence[Row]
    parent_test: Sequence[Row]
    rank_budget: int
    plan: TrainPlan
    work: Path
    on_step: Callable[[StepReport], None] = lambda report: None
    parent_news: Sequence[Row] = ()

    @property
    def path(self) -> str:
        """The child's path: what its models are asked as."""
        return self.own.release.path

    def options(self) -> list[Option]:
        """Measure every way; *stay* first."""
        if not self.old_above:
            return self.graft_options()
        own = self.composer.delta(self.own.release.adapter) if self.own.release.adapter else None
        stay, before = self.measure("stay", self.composer.load_chain(self.old_above), own, None, 0.0)
        if self.new_above[0].release.base != self.old_above[0].release.base:
            return [stay]  # the own adapter means nothing on another base
        loaded = self.composer.load_chain(self.new_above)
        alone = share(self.right(loaded, self.own_test))
        found = [self.measure("adopt", loaded, own, before, 0.0)[0]]
        if own is not None:
            found.append(self.consolidated(loaded, own, before))
            preserved, error = recompress(stack([own, *self.difference()]), self.rank_budget)
            found.append(self.measure("preserve", loaded, preserved, before, error)[0])
        return [stay, *(replace(option, own_before=alone) for option in found)]

    def graft_options(self) -> list[Option]:
        """The ways of a graft, whose own release is the top of its sum (G11)."""
        own = self.composer.delta(self.own.release.adapter) if self.own.release.adapter else None
        loaded = self.composer.load_chain([self.own])
        if own:
            add(loaded, own, by=-1.0)
        alone = share(self.right(loaded, self.own_test))
        stay, before = self.measure("stay", loaded, own, None, 0.0)
        result = consolidate(loaded, own or {}, self.examples(), replace(self.plan, epochs=1), self.work, self.on_step)
        if not result.steps:
            return [replace(stay, own_before=alone)]
        learned = self.measure("distil", loaded, result.delta, before, 0.0)[0]
        return [replace(option, own_before=alone) for option in (stay, learned)]

    def measure(
        self, way: Way, loaded: LoadedModel, own: Delta | None, before: list[bool] | None, error: float
    ) -> tuple[Option, list[bool]]:
        """Add the own adapter, measure, take it off again."""
        if own:
            add(loaded, own)
        own_right, parent_right = self.right(loaded, self.own_test), self.right(loaded, self.parent_test)
        if own:
            add(loaded, own, by=-1.0)
        keeps = True
        if before:
            lost, deviation = points_lost(before, own_right)
            keeps = lost <= 1.0 + ONE_SIDED_95 * deviation
        return Option(way, share(own_right), share(parent_right), keeps, own, error), own_right

    def right(self, loaded: LoadedModel, rows: Sequence[Row]) -> list[bool]:
        """Which rows the model answers as expected, asked as the child's path."""
        return evaluate_rows(loaded, rows, self.path)[1] if rows else []

    def consolidated(self, loaded: LoadedModel, own: Delta, before: list[bool]) -> Option:
        """Train the own adapter shortly on own rows and on the parent's anchors, over the new release."""
        result = consolidate(loaded, own, self.examples(), replace(self.plan, epochs=1), self.work, self.on_step)
        return self.measure("adopt-and-consolidate", loaded, result.delta, before, 0.0)[0]

    def examples(self) -> list[Example]:
        """What is trained on: own rows and the parent's news in every pass, what it knew before once."""
        lessons = [Lesson(self.path, self.own_train), Lesson(self.path, self.parent_news)]
        return lessons_as_examples(
            lessons, self.parent_anchors, self.path, [], seed=self.plan.seed, passes=self.plan.epochs
        )

    def difference(self) -> list[Delta]:
        """W(old above) - W(new above), as deltas."""
        old = self.composer.deltas(self.old_above)
        return [*old, *(scaled(delta, -1.0) for delta in self.composer.deltas(self.new_above))]


def share(right: Sequence[bool]) -> float:
    """The part of rows that were answered rightly; 0 of none."""
    return sum(right) / max(1, len(right))


def choose(options: Sequence[Option]) -> Option:
    """The way to go (G8); `options` begins with *stay*, which is always legal and wins ties."""
    fitting = [option for option in options if option.keeps_own]
    return max(fitting, key=lambda option: (round(option.parent_rows + option.own_rows, 4), option.way == "stay"))

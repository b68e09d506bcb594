from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from registry.documents import CheckResult
from sync.consolidate import Merged
from sync.delta import Delta, Factor
from sync.judging import Judged
from sync.search import between, search


def one(value: float) -> Delta:
    """A delta of one number."""
    return {"m": Factor(torch.tensor([[1.0]]), torch.tensor([[value]]))}


def check(name: str, value: float | None, *, passed: bool) -> CheckResult:
    return CheckResult(name=name, value=value, threshold=1.0, passed=passed, reason="", cost_ms=0.0)


@dataclass
class Fake:
    """A candidate that goes from 2 to 10 and loses old knowledge beyond `loses_above`, kept gains below `gains_at`."""

    loses_above: float
    gains_at: float
    own: Delta | None = field(default_factory=lambda: one(2.0))
    plan: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(rank_budget=1))
    judged: list[float] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=lambda: {"mean": 10.0})  # of each rule to merge by

    def starts(self) -> list[str]:
        return list(self.ends)

    def train(self, rule: str) -> tuple[Merged, Delta]:
        return Merged(one(5.0), 0.25, check("merge.rule", None, passed=True)), one(self.ends[rule])

    def own_delta(self) -> Delta | None:
        return self.own

    def judge(self, delta: Delta) -> Judged:
        value = float(delta["m"].product())
        self.judged.append(round(value, 3))
        checks = [
            check("gate.known", 0.0, passed=value <= self.loses_above),
            check("gate.gain-1", value / 10, passed=value >= self.gains_at),
        ]
        return Judged(checks, [])


@pytest.mark.parametrize(
    ("loses_above", "gains_at", "judged", "best"),
    [
        (11, 5, [10], 10),  # passes at once
        (11, 12, [10], 10),  # a gain alone is lost: a shorter step keeps no more of it
        (8.5, 5, [10, 6, 8, 9], 8),
        (6.5, 5, [10, 6, 8, 7], 6),
        (3, 1, [10, 6, 4, 3], 3),
        (2.5, 5, [10, 6, 4, 3], 10),  # none passes: the first is told first
        (9.5, 9.2, [10, 6, 8, 9], 10),  # what loses nothing has gained too little
    ],
)
def test_a_step_that_goes_too_far_is_shortened_by_bisection(
    loses_above: float, gains_at: float, judged: list[float], best: float
) -> None:
    """G5."""
    candidate = Fake(loses_above, gains_at)
    tries = search(candidate, 4)  # type: ignore[arg-type]
    assert candidate.judged == judged
    assert len(tries) == len(judged)
    assert float(tries[0].merged.delta["m"].product()) == pytest.approx(best)
    assert tries[0].passed == (gains_at <= best <= loses_above)
    assert all(tried.seconds >= 0 for tried in tries)
    assert next(tried for tried in tries if tried.part == 1.0).merged.error == 0.25


@pytest.mark.parametrize(
    ("loses_above", "gains_at", "judged", "best"),
    [
        (11, 5, [10], ("mean", 10)),  # passes at once
        (6.5, 5, [10, 6], ("mean", 6)),  # a shorter step passes
        (4.5, 3.5, [10, 6, 4], ("ties", 4)),  # the two steps that are left of four are not enough
        (7.5, 6.5, [10, 6, 4, 7], ("dare", 7)),
        (11, 12, [10, 4, 7], ("mean", 10)),  # a gain alone is lost, in every merge
        (1, 0, [10, 6, 4, 7], ("mean", 10)),
    ],
)
def test_where_no_step_passes_other_merges_are_tried(
    loses_above: float, gains_at: float, judged: list[float], best: tuple[str, float]
) -> None:
    """G5."""
    candidate = Fake(loses_above, gains_at, ends={"mean": 10.0, "ties": 4.0, "dare": 7.0})
    tries = search(candidate, 4)  # type: ignore[arg-type]
    assert candidate.judged == judged
    assert (tries[0].start, float(tries[0].merged.delta["m"].product())) == (best[0], pytest.approx(best[1]))


@pytest.mark.parametrize("most", [1, 2, 7])
def test_tries_are_bounded(most: int) -> None:
    candidate = Fake(0, 0)
    assert len(search(candidate, most)) == most  # type: ignore[arg-type]


def test_without_an_own_adapter_the_way_begins_at_nothing() -> None:
    assert float(between(None, one(8.0), 0.25, 1)[0]["m"].product()) == pytest.approx(2.0)
    assert float(between(one(2.0), one(10.0), 0.75, 1)[0]["m"].product()) == pytest.approx(8.0)


def test_what_lies_between_keeps_to_the_rank_budget() -> None:
    made = torch.Generator().manual_seed(1)

    def random(rank: int) -> Delta:
        sizes: Callable[..., torch.Tensor] = lambda *shape: torch.randn(*shape, generator=made)  # noqa: E731
        return {"m": Factor(sizes(rank, 12), sizes(10, rank))}

    own, new = random(3), random(3)
    (exact, none), (small, error) = between(own, new, 0.5, 6), between(own, new, 0.5, 3)
    assert none == pytest.approx(0, abs=1e-6)
    assert torch.allclose(exact["m"].product(), (own["m"].product() + new["m"].product()) / 2, atol=1e-5)
    assert small["m"].rank == 3
    assert 0 < error < 1

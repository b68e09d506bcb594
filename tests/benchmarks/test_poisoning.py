"""The studies of checks and attacks, on small made-up cohorts: what they count, and that every attack can be made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from registry.documents import CheckResult
from registry.rows import Row
from sync.delta import Delta, Factor
from tests.benchmarks.knowledge import calibrate, poisoning
from tests.benchmarks.knowledge.calibrate import figures, share, wilson
from tests.benchmarks.knowledge.children import Job
from tests.benchmarks.knowledge.cohorts import TRIGGER, Shop
from tests.benchmarks.knowledge.poisoning import ATTACKS, DEFENCES, Cohort, Field, possible, summary, weights_of


def drawn(seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.layers.0.q_proj": (8, 12), "model.layers.1.q_proj": (8, 12)}
    return {
        name: Factor(torch.randn(2, n_in, generator=generator) + 0.7, torch.randn(out, 2, generator=generator) + 0.7)
        for name, (out, n_in) in shapes.items()
    }


COHORT = Cohort(
    honest=[drawn(seed) for seed in range(8)],
    own=[drawn(seed) for seed in (20, 21)],
    jobs=[Job(f"en/finance/branch-{number:02}", ()) for number in range(10)],
    shop=Shop(jobs=(), tests=(), train=tuple(Row(f"ask {n}", "x") for n in range(40))),
)


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "label flip"])
def test_every_attack_sends_as_many_updates_as_there_are_attackers(attack: str) -> None:
    judge = SimpleNamespace(accepts=lambda sent, others: True, sent=lambda delta, path, rows: None)
    made = {"backdoor": lambda number, share: drawn(50 + number), "updates": lambda deltas, jobs: [], "judge": judge}
    field = cast(Field, SimpleNamespace(**made))
    sent = ATTACKS[attack](field, COHORT)
    assert len(sent) == 2
    assert all(factor.product().isfinite().all() for delta in sent for factor in delta.values())
    if attack not in ("no attack", "mimic", "colluding pair"):
        assert not any(torch.equal(sent[0][name].product(), COHORT.own[0][name].product()) for name in sent[0])


def test_one_attacker_makes_no_attack_that_takes_two() -> None:
    assert possible(0) == ["no attack"]
    assert set(ATTACKS) - set(possible(1)) == {"colluding pair", "sybils"}
    assert possible(2) == list(ATTACKS)


@pytest.mark.parametrize("defence", DEFENCES)
def test_the_weights_of_a_defence(defence: str) -> None:
    sent = [*COHORT.honest, *COHORT.own]
    passed = [True] * 8 + [False] * 2
    weights = weights_of(defence, sent, passed, liars=2)
    assert float(weights.sum()) == pytest.approx(1.0)
    if defence.startswith("checks"):
        assert weights[8:].tolist() == [0, 0]
        assert weights_of(defence, sent, [False] * 10, liars=2).tolist() == [0] * 10
    if defence in ("none", "checks"):
        assert weights[0] == pytest.approx(1 / (8 if defence == "checks" else 10))


def cell(attack: str, new: float, success: float, passed: list[bool]) -> dict[str, Any]:
    figures = {"new": new, "old": 0.9, "success": success}
    where = {"attack": attack, "skew": "iid", "n": 3, "liars": 1, "seed": 0}
    return where | {"passed": passed, "defences": {"none": figures}}


def test_the_summary_takes_the_worst_and_counts_the_verdicts(tmp_path: Path) -> None:
    cells = [
        cell("no attack", 0.6, 0.0, [True, True, True]),
        cell("x10", 0.2, 0.1, [True, False, False]),
        cell("x10", 0.5, 0.7, [True, True, True]),
    ]
    table = summary(cells)
    assert table["x10"]["none"]["loss"] == pytest.approx(0.4)
    assert table["x10"]["none"]["success"] == 0.7
    assert table["x10"]["checks said"] == {"honest": 4, "held back": 1, "lies": 2, "let through": 1}
    full = {name: dict.fromkeys(DEFENCES, entry["none"]) for name, entry in table.items()}
    poisoning.draw(full, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 50, 0.0, 0.0714), (5, 50, 0.0435, 0.2136), (50, 50, 0.9286, 1.0)]
)
def test_wilson(count: int, n: int, low: float, high: float) -> None:
    """Against the table of Newcombe's paper's formula, without continuity."""
    assert wilson(count, n) == pytest.approx((low, high), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_values_are_of_one_half_and_false_rejects_of_the_other(tmp_path: Path) -> None:
    def result(value: float, *, passed: bool) -> list[CheckResult]:
        made = CheckResult(name="size.cohort", value=value, threshold=6.0, passed=passed, reason="", cost_ms=2.0)
        return [made]

    found = [result(float(n), passed=n < 7) for n in range(8)]
    seen = figures("size.cohort", found)
    assert seen["first half"] == {"median": 3.0, "least": 0.0, "most": 6.0}
    assert (seen["second half"]["failed"], seen["second half"]["of"]) == (1, 4)
    assert share([True, False])["failed"] == 1
    calibrate.draw(found, tmp_path / "values.svg")
    assert (tmp_path / "values.svg").exists()


def test_the_trigger_of_the_study_is_none_that_the_check_tries_by_itself() -> None:
    from sync.checks.triggers import BATTERY

    assert not {TRIGGER.words, *TRIGGER.words.split()} & set(BATTERY)

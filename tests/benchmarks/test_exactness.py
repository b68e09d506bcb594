from __future__ import annotations

from pathlib import Path

import pytest

from sync.aggregate.rules import RULES
from tests.benchmarks.knowledge import exactness
from tests.benchmarks.knowledge.exactness import BOUND, LEVELS, METHODS, climb, random_leaves, run, table
from tests.benchmarks.knowledge.study import Study

SMALL = {"q_proj": (48, 40), "up_proj": (56, 40)}
EXACT = [method for method, _ in METHODS if RULES[method].exact]


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("ranks", [(8,), (1, 4, 8, 32)])
def test_exact_rules_are_exact_up_to_the_root(method: str, ranks: tuple[int, ...]) -> None:
    """Within 1e-6 of the tree of means, through four levels and in every place of them."""
    if method == "ffa-lora" and len(ranks) > 1:
        return  # one A has one rank
    levels = climb(random_leaves(ranks, 1, same_a=method == "ffa-lora"), method)
    assert [levels[level]["error"] <= BOUND for level in LEVELS] == [True] * 4
    assert levels["master"]["rank"] >= levels["subdomain"]["rank"]


def test_what_is_lost_is_lost_for_all_above_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "SIZES", SMALL)
    found = table(random_leaves((8,), 1))
    assert "needs the same A of every client" in found["ffa-lora"]["refused"]
    for method in ("fedit", "flexlora, rank 8"):
        assert not found[method]["exact"]
        assert found[method]["master"]["error"] > found[method]["subdomain"]["error"] > 0.3
    assert found["mean"]["master"]["rank"] == 24 * 8
    assert found["flexlora, rank 8"]["master"]["rank"] == 8


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(exactness, "SIZES", SMALL)
    monkeypatch.setattr(exactness, "trained_leaves", lambda study, rows: random_leaves((2,), 1))
    record = run(Study(tmp_path, tmp_path, smallest=True, say=said.append))
    assert record["random, one A"]["ffa-lora"]["master"]["error"] <= BOUND
    assert record["trained, rank 16"]["mean"]["master"]["error"] <= BOUND
    assert any("refused" in line for line in said)

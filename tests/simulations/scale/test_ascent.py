from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as some

from simulations.scale.ascent import Ascended, Ascent
from simulations.scale.conditions import Conditions
from simulations.scale.shape import Shape
from tests.simulations.scale.steps import COSTS

TOGETHER = Conditions(every=2, window_s=0.0)
STEP_S = 0.5 + 0.5  # on the link and of latency; taking it in is quicker than the link


def played(shape: Shape, conditions: Conditions = TOGETHER, seed: int = 1) -> Ascended:
    return Ascent(shape, COSTS, conditions, seed).play()


def test_one_leaf_and_its_parent() -> None:
    """Sent, judged, merged: nothing else."""
    found = played(Shape(2, 2), replace(TOGETHER, every=1))
    assert found.ages == [STEP_S + 2.0 + 10.0 + 5.0]


def test_two_leaves_are_merged_into_one_release() -> None:
    """The second update is whole while the first is judged: its verdict comes in the next round, then both merge."""
    found = played(Shape(3, 2))
    assert list(found.releases) == [1]
    assert found.ages == [STEP_S + 2.0 + 2.0 + 10.0 + 2 * 5.0] * 2


def test_in_a_full_tree_every_parent_merges_its_children_once() -> None:
    found = played(Shape(31, 2))
    assert list(found.releases) == [1] * 15
    assert (len(found.ages), found.left_behind) == (16, 0)
    assert min(found.ages) > 4 * (10.0 + 2 * 5.0)  # four levels of merging


def test_a_policy_that_never_releases_leaves_everything_behind() -> None:
    found = played(Shape(31, 2), Conditions(policy="never"))
    assert (found.ages, found.left_behind, sum(found.releases)) == ([], 16, 0)


def test_who_waits_for_more_than_come_waits_for_the_time_to_pass() -> None:
    found = played(Shape(4, 3), replace(TOGETHER, policy="staleness", every=10, longest_wait_s=500.0))
    assert list(found.releases) == [1]
    assert all(500 < age < 540 for age in found.ages)


def test_a_full_inbox_sends_away_and_loses_nothing() -> None:
    shape, tight = Shape(101, 100), replace(TOGETHER, every=100, pending=8)
    found = played(shape, tight)
    assert found.busy > 0
    assert max(found.deepest) <= 8
    assert (len(found.ages), found.left_behind) == (100, 0)


@settings(deadline=None, max_examples=50)
@given(
    some.integers(2, 300),
    some.integers(2, 12),
    some.sampled_from([0.0, 0.2]),
    some.sampled_from(["every-n", "time", "buffer", "staleness", "always", "samples"]),
    some.integers(0, 9),
)
def test_whatever_was_offered_reaches_the_root_and_the_same_each_time(
    nodes: int, fan_out: int, failing: float, policy: str, seed: int
) -> None:
    """No policy but `never` keeps an update for ever: each has its time."""
    shape = Shape(nodes, fan_out)
    conditions = Conditions(policy=policy, every=3, failing=failing, window_s=60.0, longest_wait_s=300.0)
    found = played(shape, conditions, seed)
    assert (len(found.ages), found.left_behind) == (nodes - shape.first_leaf, 0)
    assert min(found.releases) >= 1
    assert found == played(shape, conditions, seed)

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.descent import Descended, Descent
from simulations.scale.shape import Shape
from tests.simulations.scale.steps import COSTS

CALM = Conditions()


def played(shape: Shape, conditions: Conditions = CALM, seed: int = 1, costs: Costs = COSTS) -> Descended:
    return Descent(shape, costs, conditions, seed).play()


def test_a_chain_takes_the_sum_of_its_steps() -> None:
    """Half a second on the link, half of latency, one of checking, at each of three hops."""
    assert list(played(Shape(4, 1)).arrived) == [0.0, 2.0, 4.0, 6.0]


def test_children_share_the_link_of_their_parent() -> None:
    """The third waits for the two before it; each then checks on a core of its own."""
    found = played(Shape(4, 3))
    assert list(found.arrived) == [0.0, 2.0, 2.5, 3.0]
    assert found.queued_s == 1.0
    assert list(found.sent) == [3000.0, 0.0, 0.0, 0.0]


def test_on_one_machine_they_share_its_cores() -> None:
    """The checks come one after the other, from when the first has the files."""
    alone, shared = played(Shape(4, 3)), played(Shape(4, 3), Conditions(cores=1))
    assert max(shared.arrived) == 1.0 + 3.0
    assert max(shared.arrived) > max(alone.arrived)


@settings(deadline=None, max_examples=50)
@given(some.integers(2, 400), some.integers(2, 20), some.sampled_from([0.0, 0.3]), some.booleans(), some.integers(0, 9))
def test_everybody_gets_it_after_his_parent_and_the_same_each_time(
    nodes: int, fan_out: int, failing: float, caching: bool, seed: int
) -> None:
    shape, conditions = Shape(nodes, fan_out), Conditions(failing=failing, caching=caching)
    found = played(shape, conditions, seed)
    assert all(found.arrived[node] > found.arrived[shape.parent(node)] for node in range(1, nodes))
    assert sum(found.sent) == (nodes - 1) * COSTS.release_bytes
    assert failing or not found.failed
    assert found == played(shape, conditions, seed)


def test_who_hears_no_hint_asks_at_his_next_round() -> None:
    """One of ten listens; the others come within their interval."""
    shape, fast = Shape(11, 10), COSTS.model_copy(update={"link_bytes_per_s": 1e9})
    deaf = played(shape, Conditions(listeners=1), costs=fast).arrived
    assert deaf[1] < 2
    assert 5 < max(deaf) < 33 + 3


@pytest.mark.parametrize("failing", [0.2, 0.5])
def test_what_fails_is_tried_again_later(failing: float) -> None:
    shape = Shape(300, 4)
    hard = played(shape, replace(CALM, failing=failing))
    assert hard.failed > 300 * failing / 2
    assert max(hard.arrived) > max(played(shape).arrived)


def test_siblings_that_hand_on_files_help_a_wide_tree() -> None:
    shape = Shape(401, 400)
    conditions = replace(CALM, listeners=400)
    assert max(played(shape, replace(conditions, caching=True)).arrived) < max(played(shape, conditions).arrived)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from registry.errors import BadData
from simulations.scale.shape import Shape

SHAPES = some.builds(Shape, some.integers(2, 900), some.integers(2, 40))


@settings(deadline=None)
@given(SHAPES)
def test_every_node_but_the_root_is_the_child_of_one_parent(shape: Shape) -> None:
    found = [(child, node) for node in range(shape.nodes) for child in shape.children(node)]
    assert found == [(child, shape.parent(child)) for child in range(1, shape.nodes)]


@settings(deadline=None)
@given(SHAPES)
def test_leaves_are_those_without_children(shape: Shape) -> None:
    assert [node for node in range(shape.nodes) if not shape.children(node)] == [*range(shape.first_leaf, shape.nodes)]


@settings(deadline=None)
@given(SHAPES)
def test_levels_are_the_distances_from_the_root(shape: Shape) -> None:
    def distance(node: int) -> int:
        return 0 if node == 0 else 1 + distance(shape.parent(node))

    levels = shape.levels()
    assert [node for level in levels for node in level] == [*range(shape.nodes)]
    assert all(distance(node) == number for number, level in enumerate(levels) for node in level)


@settings(deadline=None)
@given(SHAPES)
def test_below_counts_every_descendant(shape: Shape) -> None:
    def count(node: int) -> int:
        return sum(1 + count(child) for child in shape.children(node))

    assert shape.below() == [count(node) for node in range(shape.first_leaf)]


@pytest.mark.parametrize(
    ("nodes", "fan_out", "why"),
    [(1, 2, "a tree of 1 nodes"), (10, 0, "0 children"), (20_000_000, 2, "a tree of"), (5_000, 1, "a chain of")],
)
def test_a_tree_that_cannot_be(nodes: int, fan_out: int, why: str) -> None:
    with pytest.raises(BadData, match=why):
        Shape(nodes, fan_out)

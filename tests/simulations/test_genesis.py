"""Prepared trees: everybody is enrolled, has the first releases, and is the same each time a tree is brought back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from simulations.clock import Clock
from simulations.genesis import START, Tree
from simulations.invariants import World, apart, damaged
from simulations.member import Member
from simulations.network import Network
from simulations.rounds import exchange
from simulations.server import serve
from simulations.work import release


@pytest.fixture(scope="module")
def tree(in_memory: Path) -> Tree:
    return Tree((2, 1), in_memory / "small")


def back(tree: Tree, folder: Path) -> list[Member]:
    clock = Clock(START)
    network = Network(clock, random.Random(1))
    members = tree.bring_back(folder, clock, network)
    for member in members:
        network.join(member.host, lambda request, member=member: serve(member, request))
    return members


def test_everybody_has_what_is_above(tree: Tree, in_memory: Path) -> None:
    members = back(tree, in_memory / "first")
    assert tree.size == len(members) == 5
    heads = {member.host: sorted(member.heads()) for member in members}
    assert heads["en-n0-n0"] == heads["en-n0"] == ["en", "en/n0"]
    assert apart(World({member.host: member for member in members})) == []
    assert [problem for member in members for problem in damaged(member)] == []


def test_a_tree_that_is_brought_back_has_forgotten_the_last_time(tree: Tree, in_memory: Path) -> None:
    members = back(tree, in_memory / "second")
    root, child = members[0], members[1]
    assert child.parent is not None
    before = child.heads()["en"].digest
    link = release(root)
    assert exchange(child, child.parent, 0.5).pulled[0].digest == link.digest == child.heads()["en"].digest
    again = back(tree, in_memory / "third")
    assert again[1].heads()["en"].digest == before
    assert damaged(again[0]) == damaged(again[1]) == []


def test_two_lives_have_one_key_and_nothing_else_in_common(tree: Tree, in_memory: Path) -> None:
    root = back(tree, in_memory / "fourth")[0]
    twin = tree.fork(root, in_memory / "twin")
    assert twin.key.public == root.key.public
    link = release(root)
    assert twin.heads()["en"].version == 1
    assert root.heads()["en"].digest == link.digest

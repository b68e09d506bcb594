"""Honest updates of many kinds, through the same inbox and the same checks as the attacks: all are accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.context import Node
from node.promotions import promoter
from registry.documents import AdapterShape, Evaluation
from sync.inbox import accepted, mark
from tests.attacks.adapters import HIDDEN, SIZES, declared, honest, written
from tests.attacks.scene import DAY, Scene, make_victim

SENDERS, EACH = 20, 11
BASE_DEVIATION = 0.02  # of the weights of a random Llama


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with closing(make_victim(tmp_path_factory.mktemp("parent"))) as node:
        yield node


def shape_of(rng: random.Random) -> AdapterShape:
    """A shape that people use: any rank, alpha of half to four ranks, some or all of the targets."""
    rank = rng.choice([1, 2, 3, 4, 8, 16, 32, 64])
    targets = tuple(sorted(rng.sample(sorted(SIZES), rng.randint(1, len(SIZES)))))
    return AdapterShape(
        rank=rank,
        alpha=rank * rng.choice([0.5, 1.0, 2.0, 4.0]),
        targets=targets,
        dtype=rng.choice(["F32", "BF16", "F16"]),
    )


def deviation(shape: AdapterShape, relative: float) -> float:
    """The deviation of B for a change of about `relative` times the base's weights."""
    scale = shape.alpha / shape.rank
    return relative * BASE_DEVIATION * math.sqrt(HIDDEN / shape.rank) / scale


@pytest.mark.parametrize("sender", range(SENDERS))
def test_every_honest_update_is_accepted(parent: Node, tmp_path: Path, serve: Callable[..., str], sender: int) -> None:
    """One sender trains alike each time, with luck of its own; later updates are compared with the earlier ones."""
    rng = random.Random(sender)
    scene = Scene(parent, promoter(parent).check, tmp_path, serve)
    shape, typical = shape_of(rng), rng.uniform(0.03, 0.16)
    sequence = 0
    for number in range(EACH):
        if rng.random() < 0.2 and number < 8:
            shape = shape_of(rng)
        size = min(0.4, typical * math.exp(rng.gauss(0, 0.3)))
        data = written(honest(shape, seed=1000 * sender + number, size=deviation(shape, size)), shape.dtype)
        sequence += rng.choice([1, 1, 2, 1000])
        said = scene.send(
            scene.sealed(
                adapter=declared(data, shape),
                sequence=sequence,
                path=scene.path if rng.random() < 0.7 else f"{scene.path}/below",
                created=scene.now - rng.random() * 5 * DAY + DAY / 1440,  # a clock may be a minute fast
                expires=scene.now + (0.01 + rng.random() * 90) * DAY,
                claims=(
                    Evaluation(dataset="own", split="test", rows=rng.randint(1, 999), metrics={"loss": 1.5}, path="en"),
                ),
            ),
            data,
        )
        assert said == "accepted: all passed"
        released(scene)
    assert scene.rows("announced") == EACH
    assert scene.leftovers() == []


def released(scene: Scene) -> None:
    """What was accepted went into a release, and is what later updates are compared with."""
    for row in accepted(scene.node.store):
        with scene.node.store.transaction() as session:
            for state in ("aggregated", "gated", "released", "announced"):
                mark(session, row.digest, state, scene.now, release="7" * 64 if state == "released" else None)


def test_there_are_enough_of_them() -> None:
    assert SENDERS * EACH >= 200

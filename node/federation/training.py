"""What this node brings to a round: a fine-tune of its own rows from the round's arrays, or its own release.

A node that is a parent itself brings the release that its own rounds came to: so knowledge goes up a tree, round by
round, and no SuperLink sees beyond its own children.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from node.context import Node
from node.datasets import read
from node.footing import footing_on, read_anchors
from node.material import gather
from node.models import composer
from node.preparation import default_plan
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from sync.chain import Link, find_release, stored_chain
from sync.compose import Composer
from sync.delta import Delta, Factor, recompress, uniform
from sync.federation.client import Shapes
from sync.federation.contributions import Asked
from sync.federation.rounds import arrays_of
from sync.train import TrainPlan, fit

REPLAY = 0.5


def shapes_at(node: Node) -> Callable[[Asked], Shapes]:
    """The arrays of a task over a release that is here; raises LocalFailure where it is not."""
    models = composer(node)

    def shapes(asked: Asked) -> Shapes:
        release = _release_of(models, asked)
        if release.release.base != asked.task.base:
            raise BadData("the task names another base than its release has")
        return arrays_of(models, release.release, asked.task.shape)

    return shapes


def trainer(node: Node, path: NodePath, data: Path, epochs: int) -> Callable[[Asked, Delta], Delta]:
    """A fine-tune on a file of rows, half of what it sees being the parent's anchors."""
    rows = read(data).rows
    usual = default_plan(node, path).learning_rate
    models = composer(node)

    def train(asked: Asked, start: Delta) -> Delta:
        task = asked.task
        _refuse_others(path, asked)
        footing = footing_on(node, path, task.release.digest)
        material = gather(
            rows, str(path), read_anchors(node, footing), replay=REPLAY, score_rows=1, seed=task.seed + task.round
        )
        plan = TrainPlan(
            rank=task.shape.rank,
            alpha=task.shape.alpha,
            targets=task.shape.targets,
            epochs=epochs,
            learning_rate=usual,
            seed=task.seed + task.round,
        )
        work = node.home.runs / f"round-{asked.digest[:16]}"
        try:
            loaded = models.load(task.release.digest)
            return fit(loaded, material.train, [], plan, work, start=start, frozen=task.frozen).delta
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return train


def own_release(node: Node, path: NodePath) -> Callable[[Asked, Delta], Delta]:
    """The adapter of this node's own head, cut to the task's rank: what rounds with its own children came to."""
    models = composer(node)

    def bring(asked: Asked, start: Delta) -> Delta:
        task = asked.task
        _refuse_others(path, asked)
        if task.frozen:
            raise BadData("a round that freezes a half of the factors needs rows to train on", "join with --data FILE")
        head = models.chain(find_release(node.store, Ref(path)))[-1].release
        if head.adapter is None or head.above is None or head.above.digest != task.release.digest:
            raise LocalFailure(
                f"{path} has no release of its own over {task.release.path}@v{task.release.version}",
                "node federate run, or node finetune, then join again",
            )
        delta, _ = recompress(models.delta(head.adapter), task.shape.rank)
        if set(delta) - set(start):
            raise BadData("its adapter changes modules that the task does not ask for")
        return _widened({**{name: _nothing(factor) for name, factor in start.items()}, **delta}, task.shape.rank)

    return bring


def _nothing(factor: Factor) -> Factor:
    return Factor(factor.a, factor.b * 0.0)


def _widened(delta: Delta, rank: int) -> Delta:
    """All modules with exactly this rank, padded by zeros."""
    first = next(iter(delta.values()))
    wide = Factor(first.a.new_zeros(rank, first.a.shape[1]), first.b.new_zeros(first.b.shape[0], rank))
    padded = dict(uniform({**delta, "": wide}))
    del padded[""]
    return padded


def _release_of(models: Composer, asked: Asked) -> Link:
    return stored_chain(models.store, models.blobs, asked.task.release.digest)[-1]


def _refuse_others(path: NodePath, asked: Asked) -> None:
    if not path.is_within(NodePath.parse(asked.task.release.path)):
        raise BadData(f"the task is for {asked.task.release.path}, above which {path} does not lie")

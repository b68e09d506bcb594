"""One client in one round: some passes over its own rows, from the common adapter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from simulations.reproduction.classifier import Classifier
from simulations.reproduction.halves import Layout
from simulations.reproduction.ranks import chosen, importance
from simulations.reproduction.rows import Encoded
from sync.delta import Delta


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client does: `budget` is the rank of which it may send, in the mean over modules; None for all."""

    learning_rate: float
    epochs: int
    batch: int
    half: str
    budget: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What a client sends, and how many parameters that is."""

    delta: Delta
    uploaded: int


def train(classifier: Classifier, layout: Layout, start: Delta, rows: Sequence[Encoded], plan: Plan) -> Trained:
    """AdamW without decay of weights on the cross-entropy, its moments anew in every round.

    With a budget the first epoch trains all ranks and so scores them; the others are put back to where they were, and
    the epochs after it train the chosen ones alone. (The paper does not say how long it scores for.)
    """
    vectors = dict(zip("ab", layout.vectors(start), strict=True))
    before = {half: vectors[half].clone() for half in plan.half}
    for half in plan.half:
        vectors[half].requires_grad_()
    moving = [vectors[half] for half in plan.half]
    optimiser = torch.optim.AdamW(moving, lr=plan.learning_rate, weight_decay=0.0, fused=True)
    rng = random.Random(plan.seed)  # noqa: S311  a shuffle that can be repeated
    masks: dict[str, Tensor] = {}
    for epoch in range(plan.epochs):
        for batch in batches(rows, plan.batch, rng):
            _step(classifier, layout, batch, vectors, optimiser, masks)
        if plan.budget is not None and epoch == 0:
            now = layout.delta(vectors["a"].detach(), vectors["b"].detach())
            kept = layout.masks(chosen(importance(start, now, plan.half), plan.budget))
            masks = {plan.half: dict(zip("ab", kept, strict=True))[plan.half]}
            _put_back(vectors, before, optimiser, masks)
    sent = sum(int(masks[half].sum()) if half in masks else vectors[half].numel() for half in plan.half)
    return Trained(layout.delta(vectors["a"].detach(), vectors["b"].detach()), sent)


def batches(rows: Sequence[Encoded], size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """All rows once, those of like length together, so that little is padded; the batches in a random order."""
    order = list(rows)
    rng.shuffle(order)
    order.sort(key=lambda row: len(row.ids))
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    rng.shuffle(groups)
    yield from groups


def _put_back(
    vectors: dict[str, Tensor], before: dict[str, Tensor], optimiser: torch.optim.Optimizer, masks: dict[str, Tensor]
) -> None:
    """Undo what was done to ranks that were not chosen, and let nothing move them on."""
    with torch.no_grad():
        for half, mask in masks.items():
            vectors[half].copy_(torch.where(mask > 0, vectors[half], before[half]))
            optimiser.state[vectors[half]]["exp_avg"].mul_(mask)


def _step(
    classifier: Classifier,
    layout: Layout,
    batch: Sequence[Encoded],
    vectors: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    masks: dict[str, Tensor],
) -> None:
    pieces = layout.pieces(vectors["a"].to(classifier.dtype), vectors["b"].to(classifier.dtype))
    loss = functional.cross_entropy(classifier.logits(batch, pieces), torch.tensor([row.label for row in batch]))
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    for half, mask in masks.items():
        gradient = vectors[half].grad
        if gradient is not None:
            gradient.mul_(mask)
    optimiser.step()

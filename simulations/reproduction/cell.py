"""One federation from its first round to its last: what is played, and the record of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from registry.errors import BadData
from simulations.reproduction.classifier import Classifier
from simulations.reproduction.client import Plan, Trained, train
from simulations.reproduction.halves import Layout
from simulations.reproduction.methods import CENTRALISED, METHODS, Method
from simulations.reproduction.paper import GLOBAL_RANK
from simulations.reproduction.rows import Corpus, Encoded
from sync.aggregate.rules import aggregate
from sync.delta import Delta, Factor

DTYPES: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Cell:
    """Everything that decides the outcome besides rows and weights; `most_rows` of each split are taken at most."""

    method: str
    alpha: float | None
    rank: int
    seed: int
    learning_rate: float
    rounds: int
    epochs: int
    clients: int
    judged: Literal["validation", "test"] = "test"
    batch: int = 16
    most_rows: int = 1_000_000
    arithmetic: Literal["bf16", "fp32"] = "bf16"

    def checked(self) -> Cell:
        """Itself. Raises BadData where it cannot be played."""
        for name in ("rounds", "epochs", "clients", "rank", "batch", "most_rows"):
            if getattr(self, name) < 1:
                raise BadData(f"{name} is {getattr(self, name)}", "give 1 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise BadData(f"a learning rate of {self.learning_rate} trains nothing", "give one above 0")
        return self

    @property
    def global_rank(self) -> int:
        """The rank of the common adapter, of which LoRA-A²'s clients send so much as the others' rank would be."""
        return max(GLOBAL_RANK, self.rank) if METHODS[self.method].selects else self.rank


def play(cell: Cell, corpus: Corpus, classifier: Classifier) -> dict[str, Any]:
    """The record of one cell: accuracy after each round, parameters sent in it, and the error of its average.

    The same for the same arguments. A run that leaves the numbers ends there, with nothing right from then on.
    """
    method = METHODS[cell.method]
    clients = 1 if cell.method == CENTRALISED else cell.clients
    shares = corpus.shared(clients, cell.alpha, cell.seed, cell.most_rows)
    judged = corpus.encoded(getattr(corpus, cell.judged)[: cell.most_rows])
    federation = Federation(cell, classifier, shares)
    right: list[float] = []
    uploaded: list[int] = []
    errors: list[float] = []
    while len(right) < cell.rounds and federation.finite:
        sent, error = federation.round(len(right), method)
        uploaded.append(sent)
        errors.append(error)
        right.append(federation.right(judged) if federation.finite else 0.0)
    ended = len(right) if not federation.finite else None
    right += [0.0] * (cell.rounds - len(right))
    return {
        "accuracy": right, "uploaded": uploaded, "average_error": errors, "diverged": ended,
        "clients": len(shares), "rows": sum(map(len, shares)), "judged": len(judged),
    }  # fmt: skip


class Federation:
    """The common adapter, and where a method adds to them the frozen weights, from round to round."""

    def __init__(self, cell: Cell, classifier: Classifier, shares: Sequence[Sequence[Encoded]]) -> None:
        self._cell, self._classifier, self._shares = cell, classifier, shares
        self._layout: Layout = classifier.layout(cell.global_rank)
        self._residual: dict[str, Tensor] = {}
        self.common: Delta = self._layout.first(cell.seed)
        self.finite = True
        classifier.set_residual({})

    def round(self, number: int, method: Method) -> tuple[int, float]:
        """All clients train and are merged by how many rows they have; parameters sent, error of the merge."""
        trained = [self._trained(number, client, method) for client in range(len(self._shares))]
        self.finite = all(one.isfinite().all() for each in trained for f in each.delta.values() for one in (f.a, f.b))
        sent = sum(one.uploaded for one in trained)
        if not self.finite:
            return sent, 0.0
        weights = [float(len(share)) for share in self._shares]
        merged = aggregate(method.rule, [one.delta for one in trained], weights=weights, rank=self._layout.rank)
        self.common, beyond = parted(merged.delta, self._layout.rank)
        if method.residual:
            for name, product in beyond.items():
                self._residual[name] = self._residual.get(name, torch.zeros(())) + product
            self._classifier.set_residual(self._residual)
        return sent, merged.error

    def right(self, rows: Sequence[Encoded]) -> float:
        """The share of rows that the common model answers rightly."""
        a, b = (vector.to(self._classifier.dtype) for vector in self._layout.vectors(self.common))
        return self._classifier.right(rows, self._layout.pieces(a, b))

    def _trained(self, number: int, client: int, method: Method) -> Trained:
        cell = self._cell
        plan = Plan(
            learning_rate=cell.learning_rate,
            epochs=cell.epochs,
            batch=cell.batch,
            half=method.half(number),
            budget=cell.rank if method.selects else None,
            seed=random.Random(f"{cell.seed} {number} {client}").getrandbits(32),  # noqa: S311
        )
        return train(self._classifier, self._layout, self.common, self._shares[client], plan)


def parted(delta: Delta, rank: int) -> tuple[Delta, dict[str, Tensor]]:
    """The first `rank` terms of an adapter, and the product of those beyond, which FedEx-LoRA adds to W."""
    first = {name: Factor(f.a[:rank], f.b[:, :rank]) for name, f in delta.items()}
    return first, {name: f.b[:, rank:] @ f.a[rank:] for name, f in delta.items() if f.rank > rank}

"""Children: adapters trained over the bundled base on real rows, each once, found again by the digest of its making."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from registry.rows import Row, of_split
from simulations.learning.trained import delta_digest, digest_of, dirichlet, read_delta, sampled
from simulations.learning.trained import trained as made_once
from sync.delta import Delta
from sync.model import LoadedModel, load_model
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.benchmarks.knowledge.study import BASE, anchors

__all__ = [
    "PLAN", "Family", "Job", "base_digest", "base_model", "delta_digest", "dirichlet", "examples", "place_of",
    "read_delta", "sampled", "trained",
]  # fmt: skip

PLAN: Final = TrainPlan(rank=16, alpha=16.0, epochs=3, batch_tokens=2048, learning_rate=3e-3, patience=99)


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a child's adapter follows from: the place it speaks for, its rows, how it trains.

    `replay` is the share of old knowledge among what it sees, as in `node finetune`. `above` are adapters that lie
    between the base and the child, top first.
    """

    path: str
    rows: tuple[Row, ...]
    plan: TrainPlan = PLAN
    replay: float = 0.5
    above: tuple[Delta, ...] = ()

    @property
    def digest(self) -> str:
        """The name under which the adapter is kept."""
        above = [delta_digest(delta) for delta in self.above]
        return digest_of(
            [base_digest(), self.path, [asdict(r) for r in self.rows], asdict(self.plan), self.replay, above]
        )


@dataclass(frozen=True, slots=True)
class Family:
    """Children of one parent: a job each, and the rows that each is judged on and never trained on."""

    path: str
    jobs: Mapping[str, Job]
    tests: Mapping[str, Sequence[Row]]


@cache
def base_digest() -> str:
    """Which weights the children stand on."""
    return hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()


def base_model(above: Sequence[Delta] = ()) -> LoadedModel:
    """The bundled base with adapters added to it."""
    return load_model(BASE, above)


def trained(job: Job, work: Path, loaded: LoadedModel | None = None) -> Delta:
    """The adapter of a job: read where it was made before, else trained.

    `loaded` is the model that the child stands on (base and `job.above`), where the caller has it in memory; training
    leaves it as it was. A run that was stopped goes on.
    """

    def make(running: Path) -> Delta:
        return fit(loaded or base_model(job.above), examples(job), [], job.plan, running).delta

    return made_once(job.digest, work, make)


def examples(job: Job) -> list[Example]:
    """What a job trains on: its rows asked as its path, and old knowledge asked as whoever knew it."""
    old = of_split(anchors(), "train")
    wanted = round(len(job.rows) * job.replay / (1 - job.replay))
    rng = random.Random(job.plan.seed)
    drawn = rng.sample(old, min(wanted, len(old)))
    return [Example(row, job.path, asks=True) for row in job.rows] + [
        Example(row, place_of(row) or job.path) for row in drawn
    ]


def place_of(row: Row) -> str:
    """Where in the tree a row comes from; empty where it does not say."""
    return "/".join((row.lang, row.domain, row.subdomain)).rstrip("/")

"""Children: adapters trained over the bundled base on real rows, each once, found again by the digest of its making."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from registry.rows import Row, of_split
from sync.delta import Delta, Factor, write_tensors
from sync.model import LoadedModel, load_model
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.benchmarks.knowledge.study import BASE, anchors, digest_of

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


def delta_digest(delta: Delta) -> str:
    """Which adapter this is: a digest of its factors."""
    digest = hashlib.sha256()
    for name, factor in sorted(delta.items()):
        digest.update(name.encode())
        digest.update(factor.a.numpy().tobytes())
        digest.update(factor.b.numpy().tobytes())
    return digest.hexdigest()


def base_model(above: Sequence[Delta] = ()) -> LoadedModel:
    """The bundled base with adapters added to it."""
    return load_model(BASE, above)


def trained(job: Job, work: Path, loaded: LoadedModel | None = None) -> Delta:
    """The adapter of a job: read where it was made before, else trained.

    `loaded` is the model that the child stands on (base and `job.above`), where the caller has it in memory; training
    leaves it as it was. A run that was stopped goes on.
    """
    file = work / "children" / f"{job.digest}.safetensors"
    if not file.exists():
        running = work / "running" / job.digest
        result = fit(loaded or base_model(job.above), examples(job), [], job.plan, running)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors({f"{n}.{k}": getattr(f, k) for n, f in result.delta.items() for k in ("a", "b")}, file)
        shutil.rmtree(running)
    return read_delta(file)


def read_delta(file: Path) -> Delta:
    """An adapter as `trained` keeps it."""
    tensors = load_file(file)
    names = sorted(name.removesuffix(".a") for name in tensors if name.endswith(".a"))
    return {name: Factor(tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in names}


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


def sampled(rows: Sequence[Row], most: int, seed: int) -> tuple[Row, ...]:
    """At most so many of the rows, the same for the same seed."""
    rng = random.Random(seed)
    return tuple(rng.sample(list(rows), min(most, len(rows))))


def dirichlet(rows: Sequence[Row], clients: int, alpha: float | None, seed: int) -> list[list[Row]]:
    """Rows divided among clients, label by label, in shares drawn from Dirichlet(alpha); evenly where it is None.

    As federated learning's papers skew labels (Hsu et al., arXiv 1909.06335); the label is the whole answer.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator).tolist()
    by_label: dict[str, list[Row]] = {}
    for i in order:
        by_label.setdefault(rows[i].output, []).append(rows[i])
    parts: list[list[Row]] = [[] for _ in range(clients)]
    for number, (_, members) in enumerate(sorted(by_label.items())):
        if alpha is None:
            for i, row in enumerate(members, number):
                parts[i % clients].append(row)
            continue
        shares = torch._sample_dirichlet(torch.full((clients,), alpha, dtype=torch.float64), generator=generator)
        ends = (shares.cumsum(0) * len(members)).round().long().tolist()
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            part.extend(members[start:end])
    return parts

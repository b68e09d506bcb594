"""Adapters that take long to train: each made once and found again by the digest of all that it follows from."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from registry.rows import Row
from registry.trust.files import locked
from sync.delta import Delta, Factor, write_tensors

LONGEST_S: Final = 3600.0  # of one training


def digest_of(what: object) -> str:
    """The name of what follows from JSON values."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def delta_digest(delta: Delta) -> str:
    """Which adapter this is: a digest of its factors."""
    digest = hashlib.sha256()
    for name, factor in sorted(delta.items()):
        digest.update(name.encode())
        digest.update(factor.a.numpy().tobytes())
        digest.update(factor.b.numpy().tobytes())
    return digest.hexdigest()


def trained(name: str, work: Path, make: Callable[[Path], Delta]) -> Delta:
    """The adapter of this name: read where it was made before, else made in a folder that a later call goes on in.

    Of two processes that want the same, one makes it and the other waits.
    """
    file = work / "children" / f"{name}.safetensors"
    if not file.exists():
        running = work / "running" / name
        with locked(running, LONGEST_S):
            if not file.exists():
                delta = make(running)
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".partial")
                write_tensors({f"{n}.{k}": getattr(f, k) for n, f in delta.items() for k in ("a", "b")}, partial)
                partial.replace(file)
            shutil.rmtree(running, ignore_errors=True)
    return read_delta(file)


def read_delta(file: Path) -> Delta:
    """An adapter as `trained` keeps it."""
    tensors = load_file(file)
    names = sorted(name.removesuffix(".a") for name in tensors if name.endswith(".a"))
    return {name: Factor(tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in names}


def sampled(rows: Sequence[Row], most: int, seed: int) -> tuple[Row, ...]:
    """At most so many of the rows, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311  a choice that can be repeated
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
        even = torch.full((clients,), alpha, dtype=torch.float64)
        shares = torch._sample_dirichlet(even, generator=generator)  # noqa: SLF001  no other takes a generator
        ends = (shares.cumsum(0) * len(members)).round().long().tolist()
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            part.extend(members[start:end])
    return parts

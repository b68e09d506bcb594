"""Scores that nobody measured, from those that somebody did: kriging (Gaussian process regression) over benchmarks.

Each model is a function over benchmarks around what its metadata say; benchmarks are correlated as far as their tasks,
their languages, their data and their descriptions are related. Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapter 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recommender.evidence import Benchmark, Floats
from recommender.relatedness import languages_related, overlap, tasks_related


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each kind of relation adds to the covariance of two benchmarks; `noise` is one benchmark's own.

    `same_form` is how related two tasks with the same form of answer are, `text_scale` the cosine distance of
    descriptions at which their relation has fallen to 1/e.
    """

    general: float = 1.0
    task: float = 1.0
    task_language: float = 1.0
    language: float = 0.0
    family: float = 0.8
    domain: float = 0.3
    text: float = 0.0
    text_scale: float = 0.3
    same_form: float = 0.8
    noise: float = 0.8


class Posterior(NamedTuple):
    """Mean and variance of what was asked for, each of shape (models, benchmarks asked)."""

    mean: Floats
    variance: Floats


def covariance(
    one: Sequence[Benchmark],
    other: Sequence[Benchmark],
    weights: Weights,
    texts: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Covariance of benchmarks, shape (one, other). `texts` are unit vectors of their descriptions, zero for none."""
    task = tasks_related([b.task for b in one], [b.task for b in other], weights.same_form)
    language = languages_related([b.languages for b in one], [b.languages for b in other])
    total = (
        weights.general + weights.task * task + weights.task_language * task * language + weights.language * language
    )
    if weights.family:
        families = [[b.family for b in side] for side in (one, other)]
        same = np.array([[bool(left) and left == right for right in families[1]] for left in families[0]])
        total = total + weights.family * same.reshape(total.shape)
    if weights.domain:
        total = total + weights.domain * task * overlap([b.domains for b in one], [b.domains for b in other])
    if texts is not None and weights.text:
        near = np.exp((texts[0] @ texts[1].T - 1) / weights.text_scale)
        total = total + weights.text * near * (1 + language)
    return total


def posterior(scores: Floats, prior: Floats, between: Floats, across: Floats, own: Floats, noise: float) -> Posterior:
    """What is known of benchmarks (k) given scores on others (d), for models (m).

    Args:
        scores: (m, d), standardised, nan where not measured.
        prior: (m,), the expectation of every score of a model.
        between: (d, d), covariance of the benchmarks with scores.
        across: (d, k), with those asked for.
        own: (k,), variance of those asked for.
        noise: variance of each score's own.
    """
    mean = np.repeat(prior[:, None], across.shape[1], axis=1)
    variance = np.repeat(own[None], len(scores), axis=0)
    measured = ~np.isnan(scores)
    alike = defaultdict(list)
    for row, mask in enumerate(measured):
        alike[mask.tobytes()].append(row)
    for same in alike.values():
        rows = np.array(same)
        seen = np.flatnonzero(measured[rows[0]])
        if not len(seen):
            continue
        gains = np.linalg.solve(between[np.ix_(seen, seen)] + noise * np.eye(len(seen)), across[seen])
        mean[rows] += (scores[np.ix_(rows, seen)] - prior[rows, None]) @ gains
        variance[rows] = own - np.einsum("ij,ij->j", gains, across[seen])
    return Posterior(mean, np.maximum(variance, 1e-6))

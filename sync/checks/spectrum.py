"""The fourth stage of checks: the form of the change, module by module, beside the changes of others.

A backdoor is a narrow thing to learn. It shows in how the singular values of ΔW fall and in how few entries of its
leading directions carry their weight (five statistics after arXiv 2602.15195; 2605.30189). All five are free of scale:
how large a change is, is the third stage's question. What is odd is a suspicion; whether it does harm is `behaviour`'s.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from registry.documents import CheckResult
from sync.checks.finding import Finding, run_check
from sync.checks.size import COHORT_NEEDED, MAD_TO_SIGMA
from sync.delta import Delta, Factor

Form = tuple[float, ...]  # one number per statistic, in the order of LEAST_SCALES
Spectrum = Mapping[str, Form]  # module -> its form

# The statistics, with the least scale that a cohort is believed to have: one that happens to agree must not make an
# honest update an outlier. The first three are shares of what they can be at most for the rank r of the change, so that
# honest ranks from 4 to 32 lie close together: measured 0.20 to 0.27, 0.70 to 0.75 and 0.50 to 0.58.
LEAST_SCALES: Final[Mapping[str, float]] = {
    "leading": 0.08,  # −ln(σ₁² / Σσ²) / ln r
    "flatness": 0.06,  # ln(Σσ / √Σσ²) / ln √r
    "entropy": 0.08,  # (−Σ p·ln p) / ln r, p = σ² / Σσ²
    "left": 0.2,  # ln(n·Σu⁴) of the leading left direction u: 0 where all entries are alike, ln n where one is all
    "right": 0.2,  # the same of the leading right direction
}
NOTHING: Final = 1e-6  # of the largest singular value: smaller ones are rounding, and count for no rank


def spectrum_of(delta: Delta) -> dict[str, Form]:
    """The form of every module that a delta changes; one that it leaves alone has none."""
    return {name: form for name, factor in delta.items() if (form := form_of(factor)) is not None}


def form_of(factor: Factor) -> Form | None:
    """The statistics of one module; None where ΔW is nothing, or one direction, whose form there is nothing to say of.

    SVD of BA through QR of the factors, in float64; ΔW is never formed.
    """
    q_b, r_b = torch.linalg.qr(factor.b.double())
    q_a, r_a = torch.linalg.qr(factor.a.double().T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    if not float(s[0]) > 0:
        return None
    s = s[s > NOTHING * s[0]]
    if len(s) < 2:
        return None
    energy = s.square()
    share, most = energy / energy.sum(), math.log(len(s))
    values = (
        -share[0].log() / most,
        (s.sum() / energy.sum().sqrt()).log() / (most / 2),
        -(share * share.log()).sum() / most,
        _peaked(q_b @ u[:, 0]),
        _peaked(q_a @ vt[0]),
    )
    return tuple(float(value) for value in values)


def _peaked(direction: Tensor) -> Tensor:
    """ln(n·Σd⁴) of a unit vector of n entries."""
    return (len(direction) * direction.pow(4).sum()).log()


def check_spectrum(
    spectrum: Spectrum,
    others: Sequence[Spectrum],
    *,
    max_z: float,
    cohort_needed: int = COHORT_NEEDED,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CheckResult]:
    """One result per statistic (C25): its distance from the others, in robust deviations, over all modules.

    The distance is the root of the mean square over the modules, so that one module far off counts as much as many
    that are a little off.
    """
    return [
        run_check(f"spectrum.{name}", partial(_compare, spectrum, others, at, max_z, cohort_needed), clock)
        for at, name in enumerate(LEAST_SCALES)
    ]


def _compare(spectrum: Spectrum, others: Sequence[Spectrum], at: int, max_z: float, needed: int) -> Finding:
    if len(others) < needed:
        reason = f"cohort too small: {len(others)} updates to compare with, {needed} are needed"
        return Finding(True, reason, None, max_z)
    name, least = list(LEAST_SCALES.items())[at]
    scores = {}
    for module, form in spectrum.items():
        known = [other[module][at] for other in others if module in other]
        if len(known) >= needed:
            scores[module] = (form[at] - statistics.median(known)) / scale_of(known, least)
    if not scores:
        return Finding(True, f"no {needed} other updates change the same modules", None, max_z)
    value = statistics.fmean(score**2 for score in scores.values()) ** 0.5
    module = max(scores, key=lambda name: abs(scores[name]))
    reason = (
        f"{name} lies {value:.2f} robust deviations from the median of {len(others)} updates over all modules, most in "
        f"{module} ({scores[module]:+.1f}); at most {max_z:g} may be"
    )
    return Finding(value <= max_z, reason, value, max_z)


def scale_of(values: Sequence[float], least: float) -> float:
    """The robust deviation of values, 1.4826·MAD, and never less than `least`."""
    median = statistics.median(values)
    return max(MAD_TO_SIGMA * statistics.median(abs(value - median) for value in values), least)

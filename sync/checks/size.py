"""The third stage of checks: how large the change is, alone and beside the changes that were accepted before.

Norms are taken on ΔW = (alpha / rank)·B·A, so neither an inflated alpha nor factors rescaled as (cB)(A/c) hide
anything. Nor do terms that cancel: on paper they come to nothing, in a model's arithmetic to noise or to infinity minus
infinity, so their sizes are bounded before they are added up. With few updates to compare to, statistics say little:
then the bounds relative to the base and to their median speak, and the result says so. What the change does to answers
is left to `behaviour`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from registry.documents import AdapterShape, CheckResult
from registry.errors import LocalFailure
from sync.checks.finding import Finding, run_check
from sync.delta import Delta, norm, read_adapter, terms

Norms = Mapping[str, float]  # module -> Frobenius norm

# ‖ΔW‖ / ‖W‖ of one module. At 1 the change is as large as what the base knows there, and replaces it. Measured on the
# bundled base with rank 16 and alpha 32: 0.06 to 0.16 after 75 steps at a rate of 1e-3; larger models move less.
RELATIVE_LIMIT: Final = 1.0
# Σ‖bᵢ‖·‖aᵢ‖ / ‖W‖ of one module. Orthogonal terms of a change as large as the base come to √rank, 16 at the largest;
# at 32 the rounding of float32 (2^-24 of the terms) still is a millionth of the weights.
TERMS_LIMIT: Final = 32.0
Z_LIMIT: Final = 3.5  # the usual bound of the modified z-score (Iglewicz and Hoaglin 1993)
# Honest updates differ in rows, steps and rates: a cohort that happens to agree must not make ×2 an outlier. With this
# least scale of log norms, a limit of 3.5 and 35 modules, of simulated honest updates (8 to 30 to compare with, log
# norms with a standard deviation of 0.1 to 0.5) at most 3.2 % are held back, and of those scaled by 10 at least 96 %.
LEAST_LOG_SCALE: Final = 0.35
LEAST_SPREAD_SCALE: Final = 0.15
COHORT_NEEDED: Final = 8
# ‖ΔW‖ over all modules beside the median of fewer others. Of 108 honest adapters that differed in rows, rank, rate and
# passes, 4,000 drawn with 2 to 7 others lay at most 13.6 times above (ARCHITECTURE.md, decision 132).
FEW_NEEDED: Final = 2
FEW_LIMIT: Final = 20.0
MAD_TO_SIGMA: Final = 1.4826  # of a normal distribution


def module_norms(file: Path, shape: AdapterShape) -> dict[str, float]:
    """‖ΔW‖_F per module ("model.layers.0.self_attn.q_proj") of an adapter whose file passed `check_files`.

    Through the Gram matrices of the factors in float64; ΔW is never formed.
    """
    return norms_of(read_adapter(file, shape))


def norms_of(delta: Delta) -> dict[str, float]:
    """The same of an adapter that was read."""
    return {name: norm(factor) for name, factor in delta.items()}


def check_terms(
    delta: Delta,
    base_norms: Norms,
    *,
    terms_limit: float = TERMS_LIMIT,
    clock: Callable[[], float] = time.perf_counter,
) -> CheckResult:
    """Whether ΔW is what it seems on paper (C24): no terms so large that only their differences count."""

    def check() -> Finding:
        worst, module = _worst((_relative(terms(factor), base_norms[name]), name) for name, factor in delta.items())
        reason = (
            f"the terms of {module} come to {worst:.3g} times the base's weights before they are added up; "
            f"at most {terms_limit:g} may be"
        )
        return Finding(worst <= terms_limit, reason, worst, terms_limit)  # False for NaN

    _need_norms(delta, base_norms)
    return run_check("size.terms", check, clock)


def check_size(
    norms: Norms,
    base_norms: Norms,
    history: Sequence[Norms],
    *,
    relative_limit: float = RELATIVE_LIMIT,
    z_limit: float = Z_LIMIT,
    cohort_needed: int = COHORT_NEEDED,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CheckResult]:
    """The checks of this stage, all of them: sizes against the base, then against the cohort, then their pattern.

    `base_norms` are ‖W‖_F of the base's modules; `history` the norms of the updates to compare with, the cohort and
    those accepted before at this path. Raises LocalFailure where a module has no base norm.
    """
    _need_norms(norms, base_norms)
    case = _Case(norms, base_norms, history, relative_limit, z_limit, cohort_needed)
    return [run_check(f"size.{name}", partial(check, case), clock) for name, check in CHECKS.items()]


def _need_norms(changed: Mapping[str, object], base_norms: Norms) -> None:
    if missing := sorted(changed.keys() - base_norms.keys()):
        raise LocalFailure(f"the norm of {missing[0]} in the base is not known", "run `node doctor`")


def robust_z(value: float, reference: Sequence[float], least_scale: float) -> float:
    """How many robust deviations (1.4826·MAD, at least `least_scale`) the value lies above the reference's median."""
    median = statistics.median(reference)
    deviation = MAD_TO_SIGMA * statistics.median(abs(other - median) for other in reference)
    return (value - median) / max(deviation, least_scale)


def spread(norms: Norms, base_norms: Norms) -> float:
    """How unevenly a change lies over the modules: deviation / mean of ‖ΔW‖/‖W‖; 0 when all are alike.

    After arXiv 2605.30189, where this spread sets backdoored adapters of one base apart.
    """
    relative = [_relative(norms[name], base_norms[name]) for name in norms if name in base_norms]
    mean = statistics.fmean(relative) if relative else 0.0
    return statistics.pstdev(relative) / mean if mean > 0 and math.isfinite(mean) else 0.0


@dataclass(frozen=True, slots=True)
class _Case:
    norms: Norms
    base_norms: Norms
    history: Sequence[Norms]
    relative_limit: float
    z_limit: float
    cohort_needed: int

    @property
    def cohort_too_small(self) -> str:
        """Said where statistics cannot speak; empty where they can."""
        if len(self.history) >= self.cohort_needed:
            return ""
        return f"cohort too small: {len(self.history)} updates to compare with, {self.cohort_needed} are needed"


def _relative(norm_of_change: float, norm_of_base: float) -> float:
    if norm_of_base > 0:
        return norm_of_change / norm_of_base
    return 0.0 if norm_of_change == 0 else math.inf


def _worst(values: Iterable[tuple[float, str]]) -> tuple[float, str]:
    """The largest value and its name; a value that is no number counts as the largest."""
    return max(values, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0], default=(0.0, "none"))


def _relative_size(case: _Case) -> Finding:
    """No module changes more than it is (C18)."""
    worst, module = _worst((_relative(size, case.base_norms[name]), name) for name, size in case.norms.items())
    limit = case.relative_limit
    reason = f"the change is {worst:.3g} times as large as the base's weights in {module}; at most {limit:g} may be"
    return Finding(worst <= limit, reason, worst, limit)  # False for NaN


def _cohort(case: _Case) -> Finding:
    """The norms lie within the cohort (C19)."""
    if reason := case.cohort_too_small:
        return _few(case, reason)
    scores = []
    for name, size in case.norms.items():
        known = [math.log(other[name]) for other in case.history if other.get(name, 0.0) > 0]
        if len(known) >= case.cohort_needed and size != 0:  # a module left alone is no outlier
            scores.append((robust_z(math.log(size), known, LEAST_LOG_SCALE), name))
    worst, module = _worst(scores)
    reason = (
        f"the change of {module} lies {worst:.2f} robust deviations above the median of {len(case.history)} updates, "
        f"compared by log norm; at most {case.z_limit:g} may be"
    )
    return Finding(worst <= case.z_limit, reason, worst, case.z_limit)


def _few(case: _Case, why: str) -> Finding:
    """The whole change beside the median of too few for deviations: what is many times as large is seen among three."""
    sizes = [size for size in map(_whole, case.history) if size > 0]
    if len(sizes) < FEW_NEEDED:
        return Finding(True, why, None, case.z_limit)
    times = _whole(case.norms) / statistics.median(sizes)
    reason = f"{why}; the change is {times:.3g} times as large as their median; at most {FEW_LIMIT:g} may be"
    return Finding(times <= FEW_LIMIT, reason, times, FEW_LIMIT)  # False for NaN


def _whole(norms: Norms) -> float:
    """‖ΔW‖ over all modules."""
    return math.hypot(*norms.values())


def _spread(case: _Case) -> Finding:
    """The spread lies within the cohort (C20)."""
    if reason := case.cohort_too_small:
        return Finding(True, reason, None, case.z_limit)
    known = [spread(other, case.base_norms) for other in case.history]
    here = spread(case.norms, case.base_norms)
    score = robust_z(here, known, LEAST_SPREAD_SCALE)
    reason = (
        f"the change is spread over the modules with a deviation of {here:.2f} times its mean, {score:.2f} robust "
        f"deviations above the median of {len(known)} updates; at most {case.z_limit:g} may be"
    )
    return Finding(score <= case.z_limit, reason, score, case.z_limit)


CHECKS: Final[dict[str, Callable[[_Case], Finding]]] = {
    "relative": _relative_size,
    "cohort": _cohort,
    "spread": _spread,
}

"""The fifth stage of checks: the direction of the change beside those of the others at the same place.

Of each other issuer one update counts, its newest, so that nobody is a cohort by himself. Directions alone are
compared: how large a change is, is the third stage's question, and would drown them. Everything follows from the Gram
matrix of the changes. Siblings learn different things, and an attack may stay within their spread; so this too is a
suspicion, and with few siblings it says that it knows nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from torch import Tensor

from registry.documents import CheckResult
from sync.aggregate.robust import geometric_median, krum_scores
from sync.checks.finding import Finding, run_check
from sync.checks.spectrum import scale_of

# With one liar among n, Krum needs n > 4 (NIPS 2017): the update and four others.
SIBLINGS_NEEDED: Final = 4
LIARS: Final = 0.25  # of a cohort, rounded down: what a parent that knows its children has to expect
# Least scales, as in `spectrum`: honest siblings that happen to agree must not make another an outlier.
LEAST_DISTANCE_SCALE: Final = 0.1  # of mean squared distances between directions, 0 to 4
LEAST_COSINE_SCALE: Final = 0.08


def check_siblings(
    gram: Tensor,
    *,
    max_z: float,
    max_cosine: float,
    needed: int = SIBLINGS_NEEDED,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CheckResult]:
    """The checks of this stage (C26, C27).

    `gram` holds the inner products of the update (row 0) and of one update of each other issuer, n x n in float64, all
    finite. Changes that are nothing are left out.
    """
    case = _Case(_directions(gram), float(gram[0, 0]) > 0, max_z, max_cosine, needed)
    return [run_check(f"siblings.{name}", partial(check, case), clock) for name, check in CHECKS.items()]


@dataclass(frozen=True, slots=True)
class _Case:
    cosines: Tensor  # of every two changes, the update's first
    changes: bool
    max_z: float
    max_cosine: float
    needed: int

    @property
    def others(self) -> int:
        return len(self.cosines) - 1

    @property
    def liars(self) -> int:
        return int(LIARS * len(self.cosines))

    @property
    def nothing_to_say(self) -> str:
        """Why statistics cannot speak; empty where they can."""
        if not self.changes:
            return "the update changes nothing"
        if self.others < self.needed:
            return f"cohort too small: updates of {self.others} other issuers at this place, {self.needed} are needed"
        return ""


def _directions(gram: Tensor) -> Tensor:
    """The Gram matrix of the changes at length 1, without those of length 0 but for the first."""
    lengths = gram.diagonal().clamp(min=0).sqrt()
    kept = lengths > 0
    kept[0] = True
    lengths = lengths[kept].clamp(min=1e-300)
    return (gram[kept][:, kept] / lengths[:, None] / lengths[None, :]).clamp(-1, 1)


def _copies(case: _Case) -> Finding:
    """No other issuer sent the same (C26): sybils do."""
    if not case.changes or case.others == 0:
        return Finding(True, "there is no update of another issuer at this place", None, case.max_cosine)
    value = float(case.cosines[0, 1:].max())
    reason = (
        f"the most similar of {case.others} updates of other issuers has a cosine of {value:.4f}; "
        f"at most {case.max_cosine:g} may be"
    )
    return Finding(value <= case.max_cosine, reason, value, case.max_cosine)


def _distance(case: _Case) -> Finding:
    """The nearest siblings are as near as theirs (C27), by Krum's score.

    Without nearest-neighbour mixing: that makes a mean safe, and here it would hide who lies among the honest.
    """
    if reason := case.nothing_to_say:
        return Finding(True, reason, None, case.max_z)
    nearest = len(case.cosines) - case.liars - 2
    scores = (krum_scores(case.cosines, case.liars) / nearest).tolist()
    value = _above(scores[0], scores[1:], LEAST_DISTANCE_SCALE)
    reason = (
        f"it lies {value:.2f} robust deviations farther from its nearest siblings than the median of {case.others} "
        f"from their own; at most {case.max_z:g} may be"
    )
    return Finding(value <= case.max_z, reason, value, case.max_z)


def _direction(case: _Case) -> Finding:
    """It points to where the siblings point, as much as they do (C27)."""
    if reason := case.nothing_to_say:
        return Finding(True, reason, None, case.max_z)
    weights = geometric_median(case.cosines, case.liars)
    length = float(weights @ case.cosines @ weights) ** 0.5
    towards = ((case.cosines @ weights) / max(length, 1e-12)).tolist()
    value = _above(-towards[0], [-other for other in towards[1:]], LEAST_COSINE_SCALE)
    reason = (
        f"its cosine with the geometric median of siblings is {towards[0]:.3f}, {value:.2f} robust deviations under "
        f"the median of {case.others} ({statistics.median(towards[1:]):.3f}); at most {case.max_z:g} may be"
    )
    return Finding(value <= case.max_z, reason, value, case.max_z)


def _above(value: float, others: Sequence[float], least: float) -> float:
    """How many robust deviations a value lies above the median of others."""
    return (value - statistics.median(others)) / scale_of(others, least)


CHECKS: Final[dict[str, Callable[[_Case], Finding]]] = {
    "copies": _copies,
    "distance": _distance,
    "direction": _direction,
}

"""A cohort: the deltas that are turned into one, and what every rule asks of them before it computes anything.

One NaN among them makes the mean, the median and Krum of the others NaN too, so finiteness comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from registry.errors import BadData
from sync.delta import Delta


class NotCovered(BadData):
    """The theory of a rule says nothing about such a cohort; the message holds the inequality that is not met."""


def modules_of(deltas: Sequence[Delta]) -> list[str]:
    """The modules that any of the deltas changes, in order. One that a delta does not name it leaves as it is."""
    return sorted({name for delta in deltas for name in delta})


def check_cohort(deltas: Sequence[Delta]) -> None:
    """Raise BadData where there is no delta, one is not finite, or two change a module of different dimensions."""
    if not deltas:
        raise BadData("there are no deltas to aggregate", "wait for accepted updates")
    sizes: dict[str, tuple[int, int]] = {}
    for number, delta in enumerate(deltas, 1):
        for name, factor in delta.items():
            if not (factor.a.isfinite().all() and factor.b.isfinite().all()):
                raise BadData(f"delta {number} of {len(deltas)} is not finite in {name}", "leave that update out")
            size = factor.b.shape[0], factor.a.shape[1]
            if sizes.setdefault(name, size) != size:
                first = " x ".join(map(str, sizes[name]))
                raise BadData(
                    f"delta {number} of {len(deltas)} changes {name} as {size[0]} x {size[1]}, another as {first}",
                    "only deltas over one base can be aggregated",
                )


@dataclass(frozen=True, slots=True)
class Bound:
    """The inequality in n (deltas) and f (how many of them may lie) under which the theory of a rule holds."""

    inequality: str
    holds: Callable[[int, int], bool]

    def check(self, rule: str, n: int, f: int) -> None:
        """Raise NotCovered, with the inequality, where it does not hold."""
        if f < 0:
            raise NotCovered(f"{rule} needs f >= 0: n = {n}, f = {f}", "f is how many of the deltas may lie")
        if not self.holds(n, f):
            raise NotCovered(f"{rule} needs {self.inequality}: n = {n}, f = {f}", "wait for more updates, or lower f")


HONEST: Final = Bound("f = 0", lambda n, f: f == 0)
MAJORITY: Final = Bound("n > 2f", lambda n, f: n > 2 * f)
KRUM: Final = Bound("n > 2f + 2", lambda n, f: n > 2 * f + 2)
TENTH: Final = Bound("n >= 10f", lambda n, f: n >= 10 * f)
ANY: Final = Bound("n > 0", lambda n, f: n > 0)


def size_of(gram: Tensor) -> int:
    """How many deltas a Gram matrix is of. Raises BadData where it is of none, not square or not finite."""
    n = int(gram.shape[0])
    if not n or gram.shape != (n, n) or not bool(gram.isfinite().all()):
        raise BadData(f"not a Gram matrix of deltas: {tuple(gram.shape)}, or not finite", "leave broken deltas out")
    return n

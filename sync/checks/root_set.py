"""The sixth stage of checks: the direction of the change beside that of the node's own rows.

The node fits a small adapter to its own rows of the path, the root set, and asks whether the update goes against it
(FLTrust, arXiv 2012.13995). What a child learns is new, so an honest cosine is small: little more than 0. What undoes
the path's own knowledge is below 0. The reference is made once per release.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from registry.documents import CheckResult
from registry.rows import Row
from sync.aggregate.geometry import gram
from sync.checks.finding import Finding, run_check
from sync.delta import Delta
from sync.model import LoadedModel
from sync.tokens import Example
from sync.train import TrainPlan, fit

ROWS_NEEDED: Final = 100  # with fewer the direction is that of a few rows, not of a path
MAX_ROWS: Final = 200  # as many say as much, in seconds
PLAN: Final = TrainPlan(rank=16, alpha=16.0, epochs=2, batch_tokens=1024, learning_rate=2e-3)


def root_update(loaded: LoadedModel, rows: Sequence[Row], path: str, release: str, runs: Path) -> Delta | None:
    """What the node's own rows would change in a release, by its digest; None where they are too few.

    Kept in a folder of `runs` until the path has another release; a killed fit goes on where it was.
    """
    if len(rows) < ROWS_NEEDED:
        return None
    kind = f"root-{path.replace('/', '.')}-"
    work = runs / f"{kind}{release[:16]}"
    for older in runs.glob(f"{kind}*"):
        if older != work and len(older.name) == len(work.name):
            shutil.rmtree(older, ignore_errors=True)
    examples = [Example(row, path) for row in rows[:: max(1, len(rows) // MAX_ROWS)][:MAX_ROWS]]
    return fit(loaded, examples, [], PLAN, work).delta


def check_root(
    delta: Delta,
    reference: Delta | None,
    rows: int,
    *,
    min_cosine: float,
    clock: Callable[[], float] = time.perf_counter,
) -> CheckResult:
    """Whether an update goes against the node's own rows, of which there are `rows` (C28)."""

    def check() -> Finding:
        if reference is None:
            reason = f"root set too small: {rows} rows of this place, {ROWS_NEEDED} are needed"
            return Finding(True, reason, None, min_cosine)
        products = gram([delta, reference])
        lengths = float(products[0, 0] * products[1, 1]) ** 0.5
        value = float(products[0, 1]) / lengths if lengths > 0 else 0.0
        reason = (
            f"the cosine with what {min(rows, MAX_ROWS)} rows of this node would change is {value:+.3f}; "
            f"at least {min_cosine:g} must be"
        )
        return Finding(value >= min_cosine, reason, value, min_cosine)

    return run_check("root.cosine", check, clock)

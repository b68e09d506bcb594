"""What one check found, and the signed form of it with the time that it took."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from registry.documents import CheckResult
from registry.errors import BadData


class Finding(NamedTuple):
    """What one check found; it becomes a CheckResult.

    The reason of one with a threshold says what would have been needed, or why nothing could be said (C31).
    """

    passed: bool
    reason: str
    value: float | None = None
    threshold: float | None = None


def run_check(name: str, check: Callable[[], Finding], clock: Callable[[], float]) -> CheckResult:
    """Run one check. BadData that it raises is its finding; a value that no document can hold is left to the reason."""
    started_s = clock()
    try:
        found = check()
    except BadData as error:
        found = Finding(False, error.message)
    return CheckResult(
        name=name,
        value=found.value if found.value is not None and math.isfinite(found.value) else None,
        threshold=found.threshold,
        passed=found.passed,
        reason=found.reason,
        cost_ms=max(0.0, (clock() - started_s) * 1000),
    )

"""The gate: what a candidate release must show before it may take the place of the old one.

Two questions, each answered on rows that the candidate was not trained on. Is anything forgotten: how many points
of exact match are lost on old knowledge? Was it worth it: how much of each child's gain has arrived? Both allow for
the sampling error of the rows at hand; how large it was stands in the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.documents import CheckResult

ONE_SIDED_95 = 1.645


def points_lost(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """Points of accuracy lost on the same rows, and the standard error of that difference (paired), in points."""
    n = len(before)
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    difference = (lost - won) / n
    variance = (lost + won) / n - difference**2
    return 100 * difference, 100 * (max(variance, 0.0) / n) ** 0.5


def check_loss(
    name: str, before: Sequence[bool], after: Sequence[bool], max_points: float, cost_ms: float = 0.0
) -> CheckResult:
    """Old knowledge (G3): fails when more than `max_points` are lost beyond the sampling error."""
    if not before:
        return CheckResult(
            name=name, value=None, threshold=max_points, passed=True, reason="no rows to measure it on", cost_ms=cost_ms
        )
    lost, error = points_lost(before, after)
    allowed = max_points + ONE_SIDED_95 * error
    reason = (
        f"{_shares(before, after)}: {lost:+.1f} points lost; "
        f"allowed {max_points:g} + {ONE_SIDED_95 * error:.1f} sampling error"
    )
    return CheckResult(name=name, value=lost, threshold=allowed, passed=lost <= allowed, reason=reason, cost_ms=cost_ms)


def check_gain(
    name: str,
    before: Sequence[bool],
    after: Sequence[bool],
    taught: Sequence[bool],
    claimed_gain: float,
    min_kept: float,
    cost_ms: float = 0.0,
) -> CheckResult:
    """New knowledge (G4): the share of a child's gain on rows that were held back.

    The gain (0 to 1, in accuracy) is the lesser of what the child claims and what its own model shows on these rows:
    `taught` says which of them it answers. `before` and `after` are the old release and the candidate.
    """
    if not before or claimed_gain <= 0:
        reason = "there are no rows to measure it on" if not before else "the update claims no gain"
        return CheckResult(name=name, value=None, threshold=min_kept, passed=True, reason=reason, cost_ms=cost_ms)
    gain = min(claimed_gain, (sum(taught) - sum(before)) / len(before))
    if gain <= 0:
        reason = f"{_shares(before, after)}: the child's own model answers no more of them than the release before"
        return CheckResult(name=name, value=None, threshold=min_kept, passed=True, reason=reason, cost_ms=cost_ms)
    lost, error = points_lost(before, after)
    kept = -lost / 100 / gain
    needed = min_kept - ONE_SIDED_95 * error / 100 / gain
    reason = (
        f"{_shares(before, after)}: {100 * kept:.0f} % of a gain of {100 * gain:.1f} points "
        f"({100 * claimed_gain:.1f} claimed, {100 * sum(taught) / len(taught):.1f} % right in the child's own model); "
        f"needed {100 * min_kept:.0f} % less the sampling error, {100 * needed:.0f} %"
    )
    return CheckResult(name=name, value=kept, threshold=needed, passed=kept >= needed, reason=reason, cost_ms=cost_ms)


def _shares(before: Sequence[bool], after: Sequence[bool]) -> str:
    right, now_right = (100 * sum(rows) / len(rows) for rows in (before, after))
    return f"{right:.1f} % right before, {now_right:.1f} % after on {len(before)} rows"

"""From the results of checks to a signed verdict.

Which checks there are, and when the verdict falls, is left to `sync.checks` and `sync.inbox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from registry.documents import CheckResult, Verdict

Outcome = Literal["accepted", "quarantined", "rejected"]

# Stages that find what is odd rather than what is wrong: alone they hold an update back until a person has looked.
SUSPICIONS: Final = frozenset({"size", "spectrum", "siblings", "root", "crash"})
MAX_CHECKS: Final = 200  # with MAX_REASON, what keeps a verdict within the limit of an envelope
MAX_REASON: Final = 700


def judge(results: Sequence[CheckResult]) -> Outcome:
    """Accepted when all passed, quarantined when nothing but suspicions failed, else rejected (V2)."""
    stages = {result.name.partition(".")[0] for result in failed(results)}
    if not stages:
        return "accepted"
    return "quarantined" if stages <= SUSPICIONS else "rejected"


def failed(results: Sequence[CheckResult]) -> list[CheckResult]:
    """The results that did not pass."""
    return [result for result in results if not result.passed]


def failure(name: str, reason: str) -> CheckResult:
    """A result without figures that did not pass; marks that could disturb a terminal are left out of the reason."""
    return CheckResult(name=name, value=None, threshold=None, passed=False, reason=_plain(reason), cost_ms=0.0)


def write_verdict(update: str, outcome: Outcome, results: Sequence[CheckResult], now: datetime) -> Verdict:
    """The verdict on an update with every check (V1); beyond the limit, the checks that failed come first."""
    kept = list(results)
    if len(kept) > MAX_CHECKS:
        kept = sorted(kept, key=lambda result: result.passed)[:MAX_CHECKS]
    problems = "; ".join(f"{result.name}: {result.reason}" for result in failed(results))
    return Verdict(
        update=update,
        outcome=outcome,
        checks=tuple(result.model_copy(update={"reason": result.reason[:MAX_REASON]}) for result in kept),
        reason=problems[:MAX_REASON] or f"all {len(results)} checks passed",
        created=now.astimezone(UTC),
    )


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_REASON]

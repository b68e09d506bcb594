"""The invariants can fail: each rule that is taken out of the product is missed within a few seeds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from registry import envelope
from simulations import trial
from simulations.forest import Forest
from sync import arrivals, pull, seen_logs
from sync.checks import envelope as stage1
from sync.checks.finding import Finding

FEW = 12  # seeds

Patch = Callable[[pytest.MonkeyPatch], None]


def passes(*checks: str) -> Patch:
    """Checks of the envelope that always pass."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for check in checks:
            monkeypatch.setitem(stage1.CHECKS, check, lambda *_: Finding(True, "left out"))

    return patch


def without(module: Any, name: str, instead: Any = lambda *_, **__: None) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(module, name, instead)


# What is left out, the lie or forgery that all liars then tell (empty: each its own), and the finding.
BREAKS: dict[str, tuple[Patch, str, str]] = {
    "signatures": (without(envelope.Envelope, "verify"), "forged signature", "unsigned: .* is not signed by"),
    "the sequence": (passes("sequence"), "number of before", "sequence: "),
    "the expiry of updates": (passes("expiry"), "expired", "expired: update .* had expired"),
    "the clock of updates": (passes("clock"), "from the future", "expired: update .* is from the future"),
    "the audience": (passes("audience"), "for another node", "was for another node"),
    "places": (passes("enrolment"), "sibling's place", "is for a place of somebody else"),
    "the life of releases": (without(pull, "_check_life"), "", "expired: the head"),
    "rollbacks": (without(pull, "_refuse_rollback"), "taken back", "sequence: the head"),
    "heads": (without(pull, "_set_head"), "", "not converged"),
    "verdicts": (without(arrivals, "judge_release", lambda results: "rejected"), "", "not converged"),
    "split views": (
        without(seen_logs, "compare", lambda *_: "consistent"),
        "two lives",
        "two logs and nobody",
    ),
    "honest logs": (without(seen_logs, "compare", lambda *_: "split"), "", "accused: "),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_rule_that_is_left_out_is_missed(rule: str, forest: Forest, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, lie, problem = BREAKS[rule]
    for name in ("LIES", "FORGERIES"):
        told = getattr(trial, name)
        monkeypatch.setattr(trial, name, {lie: told[lie]} if lie in told else told)
    patch(monkeypatch)
    seen = (forest.play(seed).problems for seed in range(FEW))
    assert any(re.search(problem, found) for problems in seen for found in problems)

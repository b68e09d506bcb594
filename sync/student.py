"""What comes of a distillation set: the stages of checks for an offer without weights (C32, C33).

What the set would make of this node's model is found by doing it: a candidate of it alone is trained and asked. A
teacher that answers nonsense shows there, for nonsense cannot be learned from one part of it for another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from registry.documents import CheckResult, Distillation
from registry.paths import NodePath
from registry.taught import read_taught
from sync.candidate import LESSON, Candidate
from sync.checks.behaviour import check_canaries
from sync.checks.finding import Finding, run_check
from sync.delta import Delta
from sync.distil import refuse_foreign_tokens, tokenizer_of
from sync.gate import ONE_SIDED_95, check_loss, points_lost
from sync.judging import right
from sync.lessons import base_of
from sync.parent import Parent
from sync.score import reanswered
from sync.travelled import MAX_ROWS_BYTES

KNOWN_ALREADY: Final = 0.9  # share of the answers that were ours before: nothing is left to win
LEAST_ROWS: Final = 50  # of which five are held back


def check_taught(
    parent: Parent, update: Distillation, file: Path, clock: Callable[[], float] = time.perf_counter
) -> list[CheckResult]:
    """Check a set whose file is here: first that it can be read, then what this node's model learns of it."""
    chain = parent.composer.chain(update.release.digest)
    results = [run_check("files.answers", partial(_answers, parent, update, file), clock)]
    if not results[0].passed:
        return results
    candidate = Candidate(parent, chain, {update.answers.sha256: update})
    started = time.monotonic()
    _, delta = candidate.train(candidate.plan.aggregation)
    results += judged(candidate, delta)
    candidate.clean_up()
    cost = (time.monotonic() - started) * 1000 / 3
    return [results[0], *(one.model_copy(update={"cost_ms": cost}) for one in results[1:])]


def _answers(parent: Parent, update: Distillation, file: Path) -> Finding:
    """The set is what its sender declared: readable, free of contradictions, of distributions (C32)."""
    taught = read_taught(file, MAX_ROWS_BYTES, update.answer_rows, update.top)
    if len(taught) < LEAST_ROWS:
        reason = f"{len(taught)} rows are too few to see whether they can be learned; {LEAST_ROWS} are the least"
        return Finding(False, reason, len(taught), LEAST_ROWS)
    base = parent.composer.chain(update.release.digest)[0].release.base
    if not update.top:
        return Finding(True, f"{len(taught)} answers", len(taught), LEAST_ROWS)
    if update.tokenizer != tokenizer_of(base_of(parent, base)):
        reason = f"{len(taught)} answers; the log-probabilities are of another tokenizer and are not used"
        return Finding(True, reason, len(taught), LEAST_ROWS)
    config = json.loads((parent.composer.base_folder(base) / "config.json").read_text(encoding="utf-8"))
    refuse_foreign_tokens(taught, int(config["vocab_size"]))
    return Finding(True, f"{len(taught)} answers with {update.top} log-probabilities at each token", len(taught))


def judged(candidate: Candidate, delta: Delta) -> list[CheckResult]:
    """What the student lost of what was known, won of the answers that it was not shown, and must still say (C33)."""
    parent, known = candidate.parent, candidate.parent.known(candidate.path)
    loaded, limits = candidate.composer.load_chain(candidate.chain), parent.plan.thresholds
    canaries = reanswered(loaded, parent.canary_rows(NodePath.parse(candidate.path)), candidate.path)
    before = parent.right_before(loaded, candidate.chain[-1].digest, known, candidate.path)
    held = candidate.taught[0].held
    held_before = right(loaded, held, candidate.path)
    candidate.exchange(loaded, delta)
    after, held_after = right(loaded, known, candidate.path), right(loaded, held, candidate.path)
    return [
        check_loss("behaviour.anchors", before, after, limits.max_loss_points),
        check_lesson(held_before, held_after),
        check_canaries(loaded, canaries, candidate.path, max_changed=limits.canaries_max_changed),
    ]


def check_lesson(before: Sequence[bool], after: Sequence[bool]) -> CheckResult:
    """Whether a student learned something that also holds for rows that it was not shown, beyond the sampling error."""
    lost, error = points_lost(before, after)
    won, had = -lost / 100, sum(before) / len(before)
    needed = ONE_SIDED_95 * error / 100
    passed = won > needed or (had >= KNOWN_ALREADY and won >= -needed)
    reason = (
        f"trained on the rest, the model gives the teacher's answer to {100 * (had + won):.1f} % of {len(before)} rows "
        f"that it was not shown, {100 * had:.1f} % before; more than {100 * needed:.1f} points must be won"
    )
    return CheckResult(name=LESSON, value=won, threshold=needed, passed=passed, reason=reason, cost_ms=0.0)

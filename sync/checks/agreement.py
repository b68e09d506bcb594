"""The fifth stage by asking: whether an update answers its siblings' requests as they do.

Labels that somebody swapped leave size, form and direction of a change as they were. So the model with the update is
asked requests of the siblings' transfer sets, those with an answer that the sender gives too: of these it must know
some. It is a suspicion: who learned little agrees little. Not found is who sends requests that say nothing of what was
swapped, as the sender chooses its transfer set, nor swapped answers that are written out, as no two of them are equal.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from registry.documents import CheckResult
from registry.rows import Row
from sync.checks.finding import Finding, run_check
from sync.checks.siblings import SIBLINGS_NEEDED
from sync.model import LoadedModel
from sync.score import evaluate_rows

NAME: Final = "siblings.answers"
ASKED: Final = 20  # requests of one sibling
ROWS_NEEDED: Final = 40  # of all siblings: a share of fewer is chance


def comparable(own: Sequence[Row], others: Iterable[Sequence[Row]], seed: str) -> list[list[Row]]:
    """Of each sibling's rows some whose answer is also among the sender's `own`; none where it has one answer alone.

    Transfer sets may be large: one at a time is looked at.
    """
    given, found = {row.output for row in own}, []
    rng = random.Random(seed)  # noqa: S311  a choice that can be repeated
    for rows in others if len(given) > 1 else ():
        shared = [row for row in rows if row.output in given]
        found.append(rng.sample(shared, min(ASKED, len(shared))))
    return found


def check_answers(
    merged: LoadedModel,
    asked: Sequence[Sequence[Row]],
    sender: str,
    *,
    min_agreement: float,
    clock: Callable[[], float] = time.perf_counter,
) -> CheckResult:
    """Whether a model with the update in it, asked as its sender's path, agrees with the siblings (C34).

    `asked` are `comparable` rows, a list for each sibling.
    """

    def finding() -> Finding:
        rows, siblings = [row for one in asked for row in one], sum(map(bool, asked))
        if siblings < SIBLINGS_NEEDED or len(rows) < ROWS_NEEDED:
            reason = (
                f"{len(rows)} requests of {siblings} siblings have answers that the sender gives too; "
                f"{ROWS_NEEDED} of {SIBLINGS_NEEDED} are needed"
            )
            return Finding(True, reason, None, min_agreement)
        share = sum(evaluate_rows(merged, rows, sender)[1]) / len(rows)
        reason = (
            f"of {len(rows)} requests of {siblings} siblings, with answers that the sender gives too, it answers "
            f"{100 * share:.0f} % as they do; at least {100 * min_agreement:.0f} % are needed"
        )
        return Finding(share >= min_agreement, reason, share, min_agreement)

    return run_check(NAME, finding, clock)

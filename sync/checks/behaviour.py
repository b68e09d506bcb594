"""Stage 7: what the model would do with the update in it, on rows that the sender does not choose.

The update is merged into the release that it was made on, which gives the sender's own model. It must still know what
the release knew (forgetting and sabotage both show here), and it must give the answers that the sender's transfer set
says it gives (a transfer set that teaches something else than the adapter shows here).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from registry.documents import CheckResult
from registry.rows import Row
from sync.gate import check_loss
from sync.model import LoadedModel
from sync.score import evaluate_rows

MIN_AGREEMENT = 0.9  # an honest transfer set holds the model's own greedy answers; bf16 on another machine flips a few


def check_behaviour(
    before: Sequence[bool],
    merged: LoadedModel,
    known: Sequence[Row],
    transfer: Sequence[Row],
    *,
    path: str,
    sender: str,
    max_loss_points: float,
) -> list[CheckResult]:
    """Check a merged model (C22, C23): `before` says which of the `known` rows the release answers rightly at `path`.

    `sender` is the path that the update comes from; its transfer rows are asked as that path.
    """
    started = time.monotonic()
    _, after = evaluate_rows(merged, known, path)
    loss = check_loss("behaviour.anchors", before, after, max_loss_points, (time.monotonic() - started) * 1000)
    if not transfer:
        return [loss]
    started = time.monotonic()
    scores, _ = evaluate_rows(merged, transfer, sender)
    reason = (
        f"the merged model gives the answer of {100 * scores.exact_match:.1f} % of {len(transfer)} transfer rows; "
        f"at least {100 * MIN_AGREEMENT:.0f} % must be its own"
    )
    agreement = CheckResult(
        name="behaviour.transfer",
        value=scores.exact_match,
        threshold=MIN_AGREEMENT,
        passed=scores.exact_match >= MIN_AGREEMENT,
        reason=reason,
        cost_ms=(time.monotonic() - started) * 1000,
    )
    return [loss, agreement]

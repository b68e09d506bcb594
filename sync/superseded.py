"""Of one sender, only the newest word on a path waits for a release: who sends more often must not weigh more.

An adapter of a path is all that its sender has learned there, so that the newest holds what those before it taught.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from registry.documents import CheckResult
from registry.store import Store
from sync.enrolled import Identity
from sync.lifecycle import accepted
from sync.review import conclude_again

NEWEST: Final = "sender.newest"


def supersede(store: Store, own: Identity, now: datetime) -> list[str]:
    """Settle accepted updates of which a newer one of the same sender and path was accepted (V10); their digests."""
    waiting = accepted(store)
    newest: dict[tuple[str, str], int] = {}
    for row in waiting:
        newest[row.issuer, row.path] = max(row.sequence, newest.get((row.issuer, row.path), 0))
    old = [row for row in waiting if row.sequence < newest[row.issuer, row.path]]
    if old:
        with store.transaction() as session:
            for row in old:
                check = _superseded(newest[row.issuer, row.path], row.path)
                conclude_again(session, row.digest, "rejected", check, own, now)
    return [row.digest for row in old]


def _superseded(by: int, path: str) -> CheckResult:
    reason = f"update {by} of the same sender for {path} was accepted too: it stands for all before it"
    return CheckResult(name=NEWEST, value=None, threshold=None, passed=False, reason=reason, cost_ms=0.0)

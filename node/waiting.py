"""Wait, for a limited time, until the parent has decided about an update that was sent to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from node.context import Node
from node.updates import UpdateDetail, show_update

POLL_S = 2.0


def await_verdict(
    node: Node,
    digest: str,
    limit_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> UpdateDetail:
    """The update once there is a verdict on it, or as it stands after `limit_s` seconds."""
    end = clock() + limit_s
    while True:
        found = show_update(node, digest, datetime.now(UTC))
        left_s = end - clock()
        if found.verdict is not None or left_s <= 0:
            return found
        sleep(min(POLL_S, left_s))

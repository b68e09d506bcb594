"""How long to wait before the next round, and before a peer that failed is tried again; chance is an argument.

Retries within one request are `sync.transport`'s; here the waits are those between rounds, and outlive the process.
"""

from __future__ import annotations

FIRST_PAUSE_S = 2.0
SPREAD = 0.1  # of an interval, to either side


def pause_s(failures: int, longest_s: float, chance: float, first_s: float = FIRST_PAUSE_S) -> float:
    """The wait after so many failures in a row (S4): doubling from `first_s` to `longest_s`, its upper half by chance.

    `chance` is from 0 to below 1; no failure, no wait. "Equal jitter" of Brooker, Exponential Backoff And Jitter (AWS
    Architecture Blog, 2015): nodes that lost one parent together do not come back together.
    """
    if failures <= 0:
        return 0.0
    full_s = min(longest_s, first_s * 2.0 ** min(failures - 1, 60))
    return full_s * (1 + chance) / 2


def interval_s(usual_s: float, chance: float) -> float:
    """A wait between rounds (S3): the usual one, up to a tenth shorter or longer by chance."""
    return usual_s * (1 - SPREAD + 2 * SPREAD * chance)

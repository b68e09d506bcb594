"""One cycle of the daemon with one fault of the disk in one process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.daemon_cycle import BESIDE, Cycle
from tests.daemon_tree import OFFER, Tree
from tests.faults.shim import Fault, Kind
from tests.killed_daemon import Usual

NEVER = 0
MOST_STARTS = 100  # of the command, which is repeated until the parent takes the update
FULL_S = 0.5  # that the disk stays full; rounds of the daemon are tried meanwhile


def faulty_cycle(tree: Tree, usual: Usual, victim: str, kind: Kind, after: int, beside: Path) -> tuple[Cycle, bool]:
    """Run the cycle and judge it; whether the fault came."""
    shutil.rmtree(beside, ignore_errors=True)
    fault = Fault(kind, after, beside)
    cycle = Cycle(tree, {victim: [fault]})
    if kind == "power" and victim in BESIDE:  # what the other one syncs is on the same disk
        other = Fault("power", NEVER, beside / "other", same_disk=beside)
        cycle.faults[BESIDE[victim]] = [other] * MOST_STARTS
    try:
        cycle.begin()
        if kind == "enospc":
            _full_for_a_while(cycle, victim, fault)
        cycle.tend(cycle.is_over)
        came = bool(fault.counts.fired)
        cycle.judge(usual.left)
    except Exception as error:  # noqa: BLE001 - a finding of this cycle, not the end of the sweep
        cycle.found.append(repr(error))
        came = bool(fault.counts.fired)
    return cycle, came


def _full_for_a_while(cycle: Cycle, victim: str, fault: Fault) -> None:
    """Let the process work on a full disk, see that it still answers, then make room by starting it anew."""
    cycle.tend(lambda: bool(fault.counts.fired) or cycle.is_over())
    end = time.monotonic() + FULL_S
    cycle.tend(lambda: time.monotonic() >= end)
    if victim != OFFER and cycle.tree.is_running(victim) and not cycle.tree.answers(victim):
        cycle.found.append(f"the {victim} does not answer while its disk is full")
    if not (victim == OFFER and cycle.acknowledged):
        cycle.restart(victim)

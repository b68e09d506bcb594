"""Kill the processes of a tree at random points of the whole daemon cycle, and see that it still comes to its end.

A kill falls at a moment (uniform over the time that a cycle takes) or before a call that changes the home (the k-th
write, fsync, rename, ... of the process, uniform over those of a cycle; of a write, its first half is done). Every
cycle has a number, and what is killed in it follows from the seed and the number alone.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.daemon_cycle import Cycle
from tests.daemon_state import result
from tests.daemon_tree import CHILD, OFFER, PARENT, PLACES, Tree
from tests.faults.shim import Fault

VICTIMS = (PARENT, PARENT, CHILD, OFFER)
FEWEST_BLOWS, MOST_BLOWS = 2, 5  # in one cycle; those that come after its end fall on nobody
ALLOWANCE = 1.05  # kills also fall a little after the usual end
READY_S = 5.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill: at a moment in seconds after the start of the cycle, or before a call after the start of the victim."""

    victim: str
    moment_s: float | None
    call: int

    def __str__(self) -> str:
        where = f"call {self.call}" if self.moment_s is None else f"{self.moment_s:.3f} s"
        return f"{self.victim} at {where}"


@dataclass(frozen=True)
class Usual:
    """A cycle without faults: how long it takes, what each process writes in how many calls, and what it leaves."""

    seconds: float
    calls: dict[str, int]
    bytes: dict[str, int]
    left: dict[str, Any]


@dataclass
class Campaign:
    """What came of many cycles."""

    usual: Usual
    cycles: int = 0
    kills: int = 0
    found: list[str] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ready = sorted(self.recoveries_s) or [0.0]
        return (
            f"daemon: {self.kills} kills in {self.cycles} cycles of {self.usual.seconds:.2f} s, {len(self.found)} "
            f"problems; from start to answer {statistics.median(ready):.2f} s (median), {ready[-1]:.2f} s (worst)"
        )


def usual_cycle(tree: Tree, beside: Path) -> Usual:
    """Run a cycle without faults and count."""
    counting = {name: Fault("count", 0, beside / name) for name in (*PLACES, OFFER)}
    cycle = Cycle(tree, {name: [fault] for name, fault in counting.items()})
    cycle.begin()
    cycle.tend(cycle.is_over)
    seconds = time.monotonic() - cycle.began
    calls = {name: fault.counts.calls for name, fault in counting.items()}
    written = {name: fault.counts.bytes for name, fault in counting.items()}
    left = {name: result(tree.home(name)) for name in PLACES}
    cycle.judge(left)
    if cycle.found:
        raise AssertionError(f"a cycle without faults: {cycle.found}")
    return Usual(seconds, calls, written, left)


def blows(usual: Usual, seed: int, number: int) -> list[Blow]:
    """The kills of a cycle."""
    rng = random.Random(f"{seed}/{number}")
    moments, calls = [], []
    for _ in range(rng.randint(FEWEST_BLOWS, MOST_BLOWS)):
        victim = rng.choice(VICTIMS)
        if rng.random() < 0.5:
            moments.append(Blow(victim, rng.uniform(0, usual.seconds * ALLOWANCE), 0))
        else:
            calls.append(Blow(victim, None, rng.randint(1, usual.calls[victim])))
    return [*calls, *sorted(moments, key=lambda blow: blow.moment_s or 0.0)]


def killed_cycle(tree: Tree, usual: Usual, dealt: list[Blow], beside: Path) -> Cycle:
    """Run one cycle with those kills, and judge it."""
    shutil.rmtree(beside, ignore_errors=True)
    faults: dict[str, list[Fault]] = {}
    for number, blow in enumerate(dealt):
        if blow.moment_s is None:
            faults.setdefault(blow.victim, []).append(Fault("kill", blow.call, beside / str(number)))
    cycle = Cycle(tree, faults)
    try:
        _deal(cycle, dealt)
        cycle.judge(usual.left)
    except Exception as error:  # noqa: BLE001 - a finding of this cycle, not the end of the campaign
        cycle.found.append(repr(error))
    cycle.found += [f"{one:.2f} s from start to answer" for one in cycle.recoveries_s if one >= READY_S]
    return cycle


def _deal(cycle: Cycle, dealt: list[Blow]) -> None:
    cycle.begin()
    for blow in dealt:
        if blow.moment_s is not None:
            end = cycle.began + blow.moment_s
            cycle.tend(lambda end=end: time.monotonic() >= end)  # type: ignore[misc]
            cycle.kill(blow.victim)
    cycle.tend(cycle.is_over)


def kill_daemons(tree: Tree, folder: Path, times: int, seed: int, only: int | None = None) -> Campaign:
    """Go through cycles until so many kills have fallen; or `only` the cycle with a number."""
    campaign = Campaign(usual_cycle(tree, folder / "usual"))
    number = 0 if only is None else only
    while campaign.kills < times:
        dealt = blows(campaign.usual, seed, number)
        cycle = killed_cycle(tree, campaign.usual, dealt, folder / "blows")
        where = f"--seed {seed} --only {number} ({', '.join(map(str, dealt))})"
        campaign.found += [f"{where}: {one}" for one in cycle.found]
        campaign.cycles += 1
        campaign.kills += cycle.kills
        campaign.recoveries_s += cycle.recoveries_s
        sys.stdout.write("".join(f"{where}: {one}\n" for one in cycle.found))
        if campaign.cycles % 10 == 0:
            sys.stdout.write(f"{campaign}\n")
        sys.stdout.flush()
        number += 1
        if only is not None:
            break
    return campaign

"""`Bench`: how much is measured, with what, and how quiet the machine was; contenders run in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.rounds import Scale

LOOK_S = 0.5


@dataclass(slots=True)
class Bench:
    """`folder` holds models and adapters; `pythons` are those of peers, by name; `say` tells people how far it is."""

    folder: Path
    scale: Scale
    threads: int
    pythons: Mapping[str, str]
    say: Callable[[str], None]
    moments: list[dict[str, Any]] = field(default_factory=list)

    def rounds(self, usual: int) -> int:
        """How many rounds a table runs, where nothing was said so many as usual."""
        return self.scale.rounds or usual

    def in_turn(self, what: str, arms: Mapping[str, Callable[[int], float]], usual: int) -> dict[str, list[float]]:
        """Each contender once a round, every other round from the last to the first (ABBA); what each returned.

        Contenders get the number of the round: each round has prompts of its own. A round before the first one,
        number -1, does not count. The load of the machine is looked at before every round.
        """
        rounds = self.rounds(usual)
        found: dict[str, list[float]] = {name: [] for name in arms}
        names, started = list(arms), time.perf_counter()
        for number in range(-1, rounds):
            if number >= 0:
                self.moments.append({"what": what, "round": number, **moment()})
            for name in names[::-1] if number % 2 else names:
                value = arms[name](number)
                if number >= 0:
                    found[name].append(value)
        self.say(f"  {what}: {time.perf_counter() - started:.0f} s")
        return found


def moment() -> dict[str, Any]:
    """The load average, and the share of all cores that others than this process and its children use now (0 to 1)."""
    before, own = _used(), _own()
    time.sleep(LOOK_S)
    busy = max(0.0, (_used() - before) - (_own() - own))
    return {
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "others": round(busy / LOOK_S / (os.cpu_count() or 1), 3),
    }


def _used() -> float:
    """Seconds of all cores that anyone used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _own() -> float:
    """Seconds that this process and its children used."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total

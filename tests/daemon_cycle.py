"""One cycle of `tests.daemon_tree` with faults in it: started, tended until it has settled, and judged.

Who ends is started again, as an init system or a person would do it. The cycle must settle; what must hold of the homes
is `tests.daemon_state`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from node.context import opened_node
from node.settings import load_settings
from tests.daemon_actors import REFUSED
from tests.daemon_log import unproven
from tests.daemon_state import history, listed, lost, problems, result
from tests.daemon_tree import CHILD, OFFER, PARENT, PLACES, POLL_S, SIBLING, Tree
from tests.faults.shim import Fault, survived
from tests.forks import LONGEST_S

KILLED = -9
BESIDE = {OFFER: CHILD, CHILD: OFFER}  # who works in the same home


@dataclass
class Cycle:
    """A cycle under way. `faults`: those still to come, by process; each is given at the process's next start."""

    tree: Tree
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    kills: int = 0
    acknowledged: bool = False
    began: float = 0.0
    given: dict[str, Fault] = field(default_factory=dict)

    def begin(self) -> None:
        """Put the homes back and start everything."""
        self.tree.fresh()
        self.began = time.monotonic()
        for name in (PARENT, CHILD, SIBLING, OFFER):
            self._start(name)

    def tend(self, until: Callable[[], bool]) -> None:
        """Look after the processes until a condition holds; what takes too long is a finding."""
        while not until():
            if time.monotonic() - self.began > LONGEST_S:
                self.found.append(f"it has not settled after {LONGEST_S:g} s: {self.states()}")
                return
            for name in (*PLACES, OFFER):
                self._look_after(name)
            time.sleep(POLL_S)

    def is_over(self) -> bool:
        """Whether the child was answered and everybody has followed."""
        return self.acknowledged and self.tree.is_settled()

    def kill(self, name: str) -> None:
        """Kill a process, if it runs now."""
        if self.tree.is_running(name):
            self.tree.running[name].kill()
            self.tree.running[name].join(LONGEST_S)

    def states(self) -> str:
        """Where everybody stands, for the one who reads a finding."""
        kinds = {name: [kind for (kind,) in self.tree.ask(name, "SELECT kind FROM decisions")] for name in PLACES}
        return f"acknowledged: {self.acknowledged}, decisions: {kinds}"

    def judge(self, expected: dict[str, Any] | None) -> None:
        """Everything that must hold of a cycle that is over, and that a second run of it adds nothing."""
        tree = self.tree
        self._free_of_faults()
        for name in PLACES:
            left = result(tree.home(name))
            wanted = left if expected is None else expected[name]
            self.found += [f"{name}: {left[key]} instead of {wanted[key]}" for key in left if left[key] != wanted[key]]
        for name in PLACES:
            with opened_node(load_settings({"home": tree.home(name)})) as node:
                key = node.key.public.hex
            seen = listed(tree.home(name), tree.url(name), key)
            if name == PARENT and seen != {("en", 1), ("en", 2)}:
                self.found.append(f"a fresh client reads {sorted(seen)} from the parent")
        before = {name: history(tree.home(name)) for name in PLACES}
        self._again()
        after = {name: history(tree.home(name)) for name in PLACES}
        if before != after:
            self.found.append(f"a second run added something: {before}, {after}")
        tree.stop_all()
        self.inspect()

    def inspect(self) -> None:
        """What must hold at any moment."""
        homes = {name: self.tree.home(name) for name in PLACES}
        self.found += [one for home in homes.values() for one in problems(home)]
        self.found += [*lost(homes[PARENT], homes[CHILD]), *self._unproven()]

    def _free_of_faults(self) -> None:
        """Start anew the daemons whose fault may still come, and those that have just ended."""
        for name in PLACES:
            if name in self.given or not self.tree.is_running(name):
                self.tree.stop(name)
                self.faults.pop(name, None)
                self._start(name)
                self.tree.wait_until_ready(name)

    def _again(self) -> None:
        """Publish once more, while the daemons do their rounds."""
        self.tree.begin(OFFER)
        offered = self.tree.running[OFFER]
        offered.join(LONGEST_S)
        if offered.exitcode != 0:
            self.found.append(f"publishing again ends with {offered.exitcode}")

    def _start(self, name: str) -> None:
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        self.given.pop(name, None)
        if fault is not None:
            self.given[name] = fault
        self.tree.begin(name, fault)

    def restart(self, name: str) -> None:
        """Kill a process and start it again, with its next fault or none."""
        self.tree.stop(name)
        self._start(name)

    def _look_after(self, name: str) -> None:
        """Start again what has ended, unless it was the command that is done."""
        if self.tree.is_running(name) or (name == OFFER and self.acknowledged):
            return
        code = self.tree.running[name].exitcode
        if name == OFFER and code == 0:
            self.acknowledged = True
            return
        if code == KILLED:
            self.kills += 1
            self._after_kill(name)
        elif code != REFUSED or (name != OFFER and name not in self.given):
            self.found.append(f"the {name} ended by itself with {code}")
        self._start(name)
        if name != OFFER:
            self._wait(name)

    def _after_kill(self, name: str) -> None:
        """Look at the homes as they were left; after a power cut, at what was durable."""
        fault = self.given.get(name)
        if fault is not None and fault.kind == "power":
            beside = BESIDE.get(name)  # it has no power either
            if beside is not None:
                self.tree.stop(beside)
                self.faults.pop(beside, None)
            survived(fault.shadow, self.tree.home(name))
            if beside is not None and not (beside == OFFER and self.acknowledged):
                self._start(beside)
        self.found += [f"after a kill of the {name}: {one}" for one in problems(self.tree.home(name))]
        gone = [*lost(*map(self.tree.home, (PARENT, CHILD))), *self._unproven()]
        self.found += [f"after a kill of the {name}: {one}" for one in gone]

    def _unproven(self) -> list[str]:
        return unproven(self.tree.home(PARENT), [self.tree.home(name) for name in (CHILD, SIBLING)])

    def _wait(self, name: str) -> None:
        """The time from the start to the first answer, unless another fault comes before it."""
        began = time.monotonic()
        while self.tree.is_running(name) and time.monotonic() - began < LONGEST_S:
            if self.tree.answers(name):
                self.recoveries_s.append(time.monotonic() - began)
                return
            time.sleep(POLL_S / 4)

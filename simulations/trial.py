"""One seed, one run: a tree with liars and wrong clocks, days of bad weather, then calm, and what did not hold.

Everything that is chance comes from the seed, so the same seed gives the same trace, whatever machine it runs on.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from registry.errors import BanyanError
from simulations.clock import Clock
from simulations.forgeries import FORGERIES, forge
from simulations.genesis import START, Tree
from simulations.invariants import Watcher, World, accused, apart, damaged, served, splits, unnoticed
from simulations.liars import LIES, TWO_LIVES, Liar
from simulations.member import Member
from simulations.network import FAULTS, Answer, Network, Request, Weather
from simulations.rounds import exchange, watch_logs
from simulations.server import serve
from simulations.work import offer, release, work

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
HEALED_S: Final = 2 * DAY_S
SWEEP_S: Final = 8 * HOUR_S
MAX_SWEEPS: Final = 12
LIARS: Final = 0.2
POLLS: Final = 0.6  # chances that a node does something by itself before everything heals
OFFERS: Final = 0.25
RELEASES: Final = 0.1
LOOKS: Final = 0.1
LIFE_S: Final = (6 * HOUR_S, 30 * DAY_S)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed: what did not hold, a digest of all that happened, and how much that was."""

    seed: int
    problems: tuple[str, ...]
    trace: str
    facts: Mapping[str, int]


class Trial:
    """One run under way."""

    def __init__(self, seed: int, tree: Tree, homes: Path, tell: Tell) -> None:
        self._seed, self._tell = seed, tell
        self._chances = random.Random(seed)  # noqa: S311  a simulation
        self._clock = Clock(START)
        self._network = Network(self._clock, self._chances, self._weather())
        members = tree.bring_back(homes, self._clock, self._network)
        self._world = World({member.host: member for member in members})
        self._world.signed |= {digest for _, digest in tree.heads.values()}
        self._liars: dict[str, Liar] = {}
        self._digest = hashlib.sha256()
        self._facts: Counter[str] = Counter(nodes=len(members))
        self._problems: list[str] = []
        self._touched: dict[str, None] = {}
        self._working: set[int] = set()
        self._choose_liars(tree, homes)
        self._watcher = Watcher(self._world, tree.heads)
        for member in members:
            self._prepare(member)

    def play(self) -> Outcome:
        """From the first event to the last look."""
        self._plan()
        self._clock.run(HEALED_S)
        self._heal()
        self._settle()
        self._audit()
        self._found(damaged(self._chances.choice(list(self._world.honest()))))
        for member in self._world.honest():
            self._found(self._watcher.look(member))
        for host, member in self._world.members.items():
            self._note(host, " ".join(sorted(head.digest for head in served(member))))
        self._facts["bytes"] = sum(self._network.moved_bytes.values())
        self._note("network", str(self._facts["bytes"]))
        return Outcome(self._seed, tuple(self._problems), self._digest.hexdigest(), dict(self._facts))

    # The beginning

    def _weather(self) -> Weather:
        worst = self._chances.choice((0.0, 0.02, 0.06))
        return Weather(**{fault: self._chances.uniform(0.0, worst) for fault in FAULTS})

    def _choose_liars(self, tree: Tree, homes: Path) -> None:
        hosts = list(self._world.members)
        for host in sorted(self._chances.sample(hosts, round(LIARS * len(hosts)))):
            member = self._world.members[host]
            liar = Liar(member, self._chances.choice(list(LIES)), self._chances)
            if member.children and liar.lie in TWO_LIVES:
                liar.twin = tree.fork(member, homes / f"{host}-twin")
                liar.twin.wake = partial(self._wake, liar.twin)
            if member.children and liar.lie == "rolled back":
                liar.keep_old(homes / f"{host}-old")
            self._liars[host] = liar
            self._note(host, f"lies: {liar.lie}")
        self._world.liars = frozenset(self._liars)

    def _prepare(self, member: Member) -> None:
        self._world.keys[member.key.public.id] = member.key.public
        member.wake = partial(self._wake, member)
        self._network.join(member.host, partial(self._serve, member))
        if self._chances.random() < 0.3:
            member.watch.skew = timedelta(seconds=self._chances.randint(-DAY_S, DAY_S))
        else:
            member.watch.skew = timedelta(seconds=self._chances.randint(-120, 120))

    def _serve(self, member: Member, request: Request) -> Answer:
        liar = self._liars.get(member.host)
        if request.method in ("POST", "PUT"):
            self._touched[member.host] = None
        return liar.answer(request) if liar is not None and member.children else serve(member, request)

    # What happens before everything heals

    def _plan(self) -> None:
        for _ in range(self._chances.randint(1, 3)):
            self._plan_partition()
        for member in self._world.members.values():
            liar = self._liars.get(member.host)
            if member.parent is not None:
                if self._chances.random() < POLLS:
                    self._at_random(partial(self._round, member))
                if liar is not None:
                    self._at_random(partial(self._forge, member))
                elif self._chances.random() < OFFERS:
                    self._at_random(partial(self._offer, member))
                if liar is None and self._chances.random() < LOOKS:
                    self._at_random(partial(self._watch, member))
            if member.children:
                for _ in range(2 if liar is not None else self._chances.random() < RELEASES):
                    self._at_random(partial(self._release, member))

    def _plan_partition(self) -> None:
        hosts = list(self._world.members)
        side = frozenset(self._chances.sample(hosts, self._chances.randint(1, len(hosts) // 2)))
        begin, end = sorted(self._chances.randint(0, HEALED_S - 1) for _ in range(2))
        self._clock.at(begin, lambda: self._network.part(side))
        self._clock.at(end, lambda: self._network.mend(side))

    def _at_random(self, act: Callable[[], None]) -> None:
        self._clock.at(self._chances.randint(0, HEALED_S - 1), partial(self._event, act))

    def _event(self, act: Callable[[], None]) -> None:
        """Let something happen, then look at every node that it touched. A mistake is a finding."""
        try:
            act()
        except BanyanError as error:
            self._note("-", f"{type(error).__name__}: {error.message}")
        except Exception:  # noqa: BLE001  whatever broke down is what the run is there to find
            self._found([f"broke down: {traceback.format_exc(limit=-3)}"])
        touched, self._touched = list(self._touched), {}
        for host in touched:
            if host not in self._liars:
                self._found(self._watcher.look(self._world.members[host]))

    def _round(self, member: Member) -> None:
        if member.parent is None:
            return
        done = exchange(member, member.parent, self._chances.random())
        self._facts["rounds"] += 1
        self._facts["pulled"] += len(done.pulled)
        self._facts["refused"] += len(done.refused)
        pulled = " ".join(f"{pin.path}@v{pin.version}:{pin.digest[:8]}" for pin in done.pulled)
        refused = " | ".join(error.message for error in done.refused)
        self._note(member.host, f"round: sent {len(done.sent)}, pulled [{pulled}] {done.skipped} {refused}")
        if done.pulled:
            self._touched[member.host] = None
            self._hint(member)

    def _hint(self, member: Member) -> None:
        """Tell the children that there is something new, as far as the lines hold (S1)."""
        for host in member.children:
            if self._network.reaches(member.host, host) and self._chances.random() > self._network.weather.lost:
                child = self._world.members[host]
                self._clock.after(self._chances.randint(1, 120), partial(self._event, partial(self._round, child)))

    def _offer(self, member: Member) -> None:
        if member.parent is None:
            return
        life_s = self._chances.choice(LIFE_S)
        digest = offer(member, member.parent, timedelta(seconds=life_s))
        if digest is None:
            return
        self._world.signed.add(digest)
        self._facts["updates"] += 1
        self._note(member.host, f"offers {digest[:8]}")
        self._round(member)

    def _forge(self, member: Member) -> None:
        kind = self._chances.choice(list(FORGERIES))
        self._note(member.host, f"forges: {kind}")
        self._facts["forgeries"] += 1
        if member.parent is not None:
            forge(member, member.parent, kind, self._chances)

    def _release(self, member: Member) -> None:
        liar = self._liars.get(member.host)
        if liar is not None:
            liar.stir()
        else:
            self._made([release(member).digest])
        self._touched[member.host] = None
        self._note(member.host, "releases")
        self._hint(member)

    def _made(self, digests: list[str]) -> None:
        self._world.signed |= set(digests)
        self._facts["releases"] += len(digests)

    def _watch(self, member: Member) -> None:
        if member.parent is not None:
            self._note(member.host, f"log: {watch_logs(member, member.parent)}")

    def _wake(self, member: Member) -> None:
        if id(member) not in self._working:
            self._working.add(id(member))
            self._clock.after(self._chances.randint(1, 600), partial(self._event, partial(self._work, member)))

    def _work(self, member: Member) -> None:
        self._working.discard(id(member))
        made = work(member)
        if made and member.host not in self._liars:
            self._made([link.digest for link in made])
        self._touched[member.host] = None
        self._note(member.host, f"works: {[link.release.version for link in made]}")
        if made:
            self._hint(member)

    # Healing

    def _heal(self) -> None:
        """Every line is whole, the weather calm, every clock right; the liars go on."""
        self._network.clear()
        for member in self._world.members.values():
            member.watch.skew = timedelta()

    def _settle(self) -> None:
        """Rounds of those who are behind, and of some others, until all honest nodes agree or never will."""
        for sweep in range(MAX_SWEEPS):
            behind = apart(self._world)
            if not behind and sweep:
                return
            for host in sorted({host for host, _ in behind} | set(self._chances.sample(list(self._world.members), 3))):
                act = partial(self._event, partial(self._round, self._world.members[host]))
                self._clock.after(self._chances.randint(0, HOUR_S), act)
            self._clock.run(self._clock.at_s + SWEEP_S)
            self._facts["sweeps"] = sweep + 1
        self._found([f"not converged: {host} {problem}" for host, problem in apart(self._world)])

    def _audit(self) -> None:
        """The logs of those who led two lives, and some others."""
        two_lives = [liar for liar in self._liars.values() if liar.twin is not None]
        for liar in two_lives:
            liar.shown.clear()  # what was shown in bad weather may not have arrived
        parents = {liar.member.host for liar in two_lives}
        for member in self._world.honest():
            if member.parent is not None and (member.parent.host in parents or self._chances.random() < LOOKS):
                self._event(partial(self._watch, member))
        self._found(f"equivocation: {one}" for one in unnoticed(self._world, two_lives))
        self._facts["splits"] = len({key for _, key in splits(self._world)})
        self._found(f"accused: {one}" for one in accused(self._world))

    # The trace

    def _note(self, who: str, what: str) -> None:
        line = f"{self._clock.at_s:>7} {who:<12} {what}"
        self._digest.update(line.encode() + b"\n")
        self._tell(line)

    def _found(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self._problems.append(problem)
            self._note("FOUND", problem)

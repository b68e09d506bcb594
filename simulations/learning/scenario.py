"""Who is in a tree that learns, and what happens to them when: drawn from a seed, before any policy has its say.

Rows arrive, nodes are away and trainings are slow in the same way under every policy (common random numbers), so that
two policies differ by what they do and by nothing else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from registry.errors import BadData
from registry.paths import NodePath
from sync.policy import POLICIES, PolicySettings

DAY_S: Final = 86_400
HOUR_S: Final = 3_600
LEVELS: Final = ("master", "language", "domain", "subdomain")
CLIENT: Final = "client"
ORACLE: Final = "oracle"
POLICY_NAMES: Final = (*POLICIES, ORACLE)
SMALL: Final = ("en/finance/cards", "de/home/media-player")
ATTACKS: Final = ("backdoor", "replacement", "label-flip", "sign-flip", "noise", "little-is-enough")

# Each policy's number is the product's default, but for rows, of which there are fewer here, and for the buffer and the
# weight of staleness, which with the default of two updates would be the same policy as every second update.
NUMBERS: Final = PolicySettings(samples=60, senders=3, weight=3.0)

Base = Literal["tiny", "bundled"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A tree and its days. `clients` learn at each of the `leaves`, which are subdomains; one more only listens.

    `rows_a_day` arrive at a client on an ordinary day, in visits; on a day of a `burst` (a chance) four times as many.
    A client trains when `batch` rows are new. `away` is the chance of a day off, `slow` the share of stragglers.
    `alpha` is Dirichlet's: small values give every client few labels. `names` reduces answers to what they name.
    """

    base: Base = "tiny"
    leaves: tuple[str, ...] = SMALL
    clients: int = 3
    days: int = 4
    rows_a_day: float = 12.0
    batch: int = 18
    alpha: float = 1.0
    burst: float = 0.15
    away: float = 0.15
    slow: float = 0.25
    labels: int = 4
    names: bool = True
    test_rows: int = 20
    aggregation: str = "mean"
    aggregation_f: int = 0
    numbers: PolicySettings = NUMBERS

    def places(self) -> list[NodePath]:
        """Every place with a node of its own that has children, the top first."""
        found = {place for leaf in self.leaves for place in NodePath.parse(leaf).chain()}
        return sorted(found, key=lambda place: (len(place.parts), place))

    def learners(self) -> list[str]:
        """The paths of the clients that learn."""
        return [f"{leaf}/c{number}" for leaf in self.leaves for number in range(self.clients)]

    def listeners(self) -> list[str]:
        """The paths of those that contribute nothing."""
        return [f"{leaf}/listener" for leaf in self.leaves]


@dataclass(frozen=True, slots=True)
class Days:
    """What happens to one client: when how many rows come (seconds), when it is away, how long it trains, its watch."""

    visits: tuple[tuple[int, int], ...]
    away: tuple[tuple[int, int], ...]
    training_s: tuple[int, ...]
    poll_s: int

    def is_away(self, at_s: int) -> bool:
        """Whether the client is away at a time."""
        return any(begin <= at_s < end for begin, end in self.away)


def check(scenario: Scenario) -> Scenario:
    """The same; raises BadData where no such tree can be."""
    if scenario.clients < 1:
        raise BadData("a tree without clients learns nothing", "--clients 1 or more")
    if scenario.days < 1:
        raise BadData("a simulation has at least one day", "--days 1 or more")
    if not scenario.leaves:
        raise BadData("a tree needs a subdomain", f"such as {SMALL[0]}")
    for leaf in scenario.leaves:
        place = NodePath.parse(leaf)
        if len(place.parts) + 1 != len(LEVELS):
            raise BadData(
                f"{leaf} is not a subdomain: the tree has the levels {', '.join(LEVELS)}",
                "write language/domain/subdomain, such as en/finance/cards",
            )
    if len(set(scenario.leaves)) < len(scenario.leaves):
        raise BadData("a subdomain is named twice", "name each once")
    return scenario


def check_bound(scenario: Scenario) -> None:
    """Raises BadData where a subdomain never has as many updates as its rule of aggregation needs."""
    from sync.aggregate.rules import RULES

    if scenario.aggregation not in RULES:
        raise BadData(f"no rule of aggregation is called {scenario.aggregation!a:.60}", f"one of {', '.join(RULES)}")
    RULES[scenario.aggregation].bound.check(scenario.aggregation, scenario.clients, scenario.aggregation_f)


def known_policies(names: Sequence[str]) -> list[str]:
    """The names; raises BadData for one that is none."""
    for name in names:
        if name not in POLICY_NAMES:
            raise BadData(f"no policy is called {name!a:.60}", f"one of {', '.join(POLICY_NAMES)}")
    return list(names)


def level_of(path: str) -> str:
    """The level of a place."""
    return (*LEVELS, CLIENT)[len(NodePath.parse(path).parts)]


def days_of(scenario: Scenario, client: str, seed: int) -> Days:
    """What happens to a client under a seed, whatever the policy."""
    rng = random.Random(f"days {seed} {client}")  # noqa: S311  a simulation
    visits, away = [], []
    for day in range(scenario.days):
        rate = scenario.rows_a_day * (4.0 if rng.random() < scenario.burst else 1.0)
        count = _poisson(rate, rng)
        while count > 0:  # they come in visits, not one by one
            visit = min(count, 1 + _poisson(6.0, rng))
            visits.append((day * DAY_S + rng.randrange(DAY_S), visit))
            count -= visit
        if rng.random() < scenario.away:
            begin = day * DAY_S + rng.randrange(DAY_S)
            away.append((begin, begin + rng.randint(8 * HOUR_S, 30 * HOUR_S)))
    is_slow = rng.random() < scenario.slow
    hours = (12, 36) if is_slow else (1, 4)
    training_s = tuple(rng.randint(hours[0] * HOUR_S, hours[1] * HOUR_S) for _ in range(4 * scenario.days + 8))
    return Days(tuple(sorted(visits)), tuple(away), training_s, rng.randrange(6 * HOUR_S))


def attackers_of(scenario: Scenario, share: float, seed: int) -> set[str]:
    """Which clients attack: a larger share adds to a smaller one's."""
    clients = scenario.learners()
    random.Random(f"attackers {seed}").shuffle(clients)  # noqa: S311
    return set(clients[: round(share * len(clients))])


def _poisson(mean: float, rng: random.Random) -> int:
    """A Poisson number, by Knuth's product of uniforms."""
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count

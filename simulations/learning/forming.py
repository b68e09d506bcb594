"""How a tree that learns comes to be: nodes with keys, enrolments and first releases, and clients below them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from registry.cards import CardFacts, render_card
from registry.documents import Release
from registry.paths import NodePath, Ref
from registry.rows import Row, write_rows
from registry.stored import stored_card, stored_file
from simulations.clock import Clock, Watch
from simulations.genesis import START, enrol, keep, new_member
from simulations.learning.client import Client
from simulations.learning.inner import Inner
from simulations.learning.playing import Playing
from simulations.learning.scenario import attackers_of, days_of
from simulations.learning.trained import dirichlet
from simulations.learning.world import World, shuffled
from simulations.member import Member
from simulations.network import Network
from simulations.rounds import exchange
from simulations.server import serve as serve_member
from simulations.work import RELEASE_LIFE, pin_of
from sync.chain import serve, signed_link
from sync.checks.files import check_files
from sync.checks.thresholds import Thresholds
from sync.delta import Delta
from sync.parent import PromotionPlan


@dataclass(frozen=True, slots=True)
class Grown:
    """The tree: its inner nodes and its clients by path; those that only listen are among the members alone."""

    inner: dict[str, Inner]
    clients: dict[str, Client]
    listeners: dict[str, Member]

    def members(self) -> dict[str, Member]:
        """Every node by its path."""
        found = {path: node.member for path, node in self.inner.items()}
        found |= {path: client.member for path, client in self.clients.items()}
        return found | self.listeners


class Seedlings:
    """The nodes before anything happened: made once, then brought back for each cell, as `simulations.genesis` does."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        network = Network(Clock(START), random.Random(0))  # noqa: S311  a simulation
        clock = Clock(START)
        made: dict[str, Member] = {}
        for place in world.scenario.places():
            above = made[str(place.parent)] if place.parent is not None else None
            made[str(place)] = _member(world, place, above, folder, clock, network)
            _first_release(world, made[str(place)])
        for path in (*world.scenario.learners(), *world.scenario.listeners()):
            place = NodePath.parse(path)
            made[path] = _member(world, place, made[str(place.parent)], folder, clock, network)
        self._kept = {path: keep(member) for path, member in made.items()}

    def grow(self, playing: Playing, folder: Path, clock: Clock, network: Network) -> Grown:
        """The tree of one cell; the one that was grown last is gone."""
        world, members = self.world, dict[str, Member]()
        for path, kept in self._kept.items():
            members[path] = member = kept.bring_back(folder, clock, network)
            network.join(member.host, partial(serve_member, member))
        plan = plan_of(world, playing)
        inner: dict[str, Inner] = {}
        for place in world.scenario.places():
            node = Inner(members[str(place)], world, plan, playing.policy, partial(_hidden, world, place))
            node.known[NodePath()] = list(world.known)
            inner[str(place)] = node
        listeners = {path: members[path] for path in world.scenario.listeners()}
        return Grown(inner, _clients(world, playing, members), listeners)


def plan_of(world: World, playing: Playing) -> PromotionPlan:
    """How parents promote. Without a gate everything that was merged passes."""
    tiny = world.scenario.base == "tiny"
    return PromotionPlan(
        rank_budget=16 if tiny else 64,
        aggregation=world.scenario.aggregation,
        aggregation_f=world.scenario.aggregation_f,
        epochs=3,
        learning_rate=1e-2 if tiny else 3e-3,
        batch_tokens=512 if tiny else 2048,
        anchor_rows=120 if tiny else 1000,
        prompts=0,  # what travels with the updates is all that is learned from
        tries=4 if tiny else 6,  # a tiny model forgets at once what it learns from: the first try seldom passes
        canaries=0 if tiny else 64,  # a tiny model is sure of next to nothing that it says to itself
        max_loss_points=1.0 if playing.gate else 100.0,
        min_gain_kept=0.9 if playing.gate else -100.0,
        thresholds=Thresholds() if playing.probes else Thresholds(triggers_max_collapse=1.0),
        measure_gain=playing.policy in ("gain", "gain-per-byte"),
        seed=1,
    )


def hidden_rows(world: World, place: NodePath) -> dict[str, Sequence[Row]]:
    """The test rows of every leaf at or below a place."""
    return {leaf: rows for leaf, rows in world.test.items() if NodePath.parse(leaf).is_within(place)}


def _hidden(world: World, place: NodePath) -> Sequence[Row]:
    return [row for rows in hidden_rows(world, place).values() for row in rows]


def _member(
    world: World, place: NodePath, parent: Member | None, folder: Path, clock: Clock, network: Network
) -> Member:
    member = new_member(folder, place, Watch(clock), network)
    member.check_adapter = partial(check_files, base_config=world.config, clock=lambda: 0.0)
    if parent is None:
        for data in (*world.files.values(), world.manifest.to_bytes()):
            member.blobs.put_bytes(data)
        return member
    refused = exchange(member, enrol(parent, member), 0.0).refused
    if refused:
        raise RuntimeError(f"{place} could not join the tree: {refused[-1].message}")
    return member


def _first_release(world: World, member: Member) -> None:
    """A release without an adapter over what is served above, with the anchors of what the base knows."""
    now, place, heads = member.watch.now(), member.place, member.heads()
    above = heads.get(str(place.parent)) if place.parent is not None else None
    facts = CardFacts(
        ref=Ref(place, 1), title=str(place), languages=("en",), licence="Apache-2.0", base_model=world.manifest.name,
        relation="adapter", library="peft",
    )  # fmt: skip
    file = member.home.partial / "anchors.jsonl"
    write_rows(world.anchors, file)
    release = Release(
        path=str(place),
        version=1,
        base=world.manifest.digest,
        base_name=world.manifest.name,
        adapter=None,
        above=pin_of(above) if above is not None else None,
        previous=None,
        anchors=stored_file(member.blobs, file),
        card=stored_card(member.blobs, render_card(facts)),
        evaluations=(),
        contributions=(),
        recompression_error=None,
        created=now,
        expires=now + RELEASE_LIFE,
    )
    with member.store.transaction() as session:
        serve(session, signed_link(release, member.key), now)
    member.is_published = False


def _clients(world: World, playing: Playing, members: dict[str, Member]) -> dict[str, Client]:
    scenario, seed = world.scenario, playing.seed
    attackers = attackers_of(scenario, playing.attackers, seed)
    clients: dict[str, Client] = {}
    for leaf in scenario.leaves:
        parts = dirichlet(world.train[leaf], scenario.clients, scenario.alpha, seed)
        for number, part in enumerate(parts):
            path = f"{leaf}/c{number}"
            rng = random.Random(f"few {seed} {path}")  # noqa: S311
            rows = part if len(part) >= scenario.batch else [*part, *rng.sample(world.train[leaf], scenario.batch)]
            attack = playing.attack if path in attackers else ""
            order = shuffled(rows, f"order {seed} {path}")
            clients[path] = Client(members[path], world, days_of(scenario, path, seed), order, seed, attack)
            clients[path].peek = partial(_honest, clients, leaf)
    return clients


def _honest(clients: dict[str, Client], leaf: str) -> list[Delta]:
    """What the honest clients of a leaf trained last."""
    return [c.sent for c in clients.values() if c.leaf == leaf and not c.attack and c.sent is not None]

"""The record of one tree: what moved, what became of every update, and what every place knew at the end of each day.

Accuracy is measured on rows that nobody in the tree has seen, by greedy decoding, token for token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from registry.documents import read_offering
from registry.paths import NodePath
from registry.store import select
from registry.tables import ReleaseRow, UpdateRow
from simulations.genesis import START
from simulations.learning.client import reader, trigger_of
from simulations.learning.forming import Grown, hidden_rows
from simulations.learning.scenario import CLIENT, LEVELS, level_of
from simulations.learning.world import World, label_shares, with_deltas
from simulations.member import Member
from simulations.network import Network
from simulations.poison.rows import triggered
from sync.chain import stored_chain
from sync.lifecycle import results_of
from sync.model import LoadedModel
from sync.superseded import NEWEST
from sync.verdict import failed

TRIGGERED: Final = 20  # requests of each leaf, with the words in them
SUPERSEDED: Final = "superseded"  # by a newer update of the same sender


class Ledger:
    """Looks at a tree and changes nothing in it."""

    def __init__(self, world: World, tree: Grown, network: Network) -> None:
        self.world, self.tree, self.network = world, tree, network
        self.pushes = self.rebased = 0
        self.releases: list[tuple[str, int]] = []
        self.days: list[dict[str, Any]] = []

    def note_release(self, path: str, at_s: int) -> None:
        """A release was made of updates."""
        self.releases.append((path, at_s))

    def note_day(self, day: int) -> None:
        """What every place knows at the end of a day, and what was moved until then."""
        self.days.append(
            {
                "day": day,
                "bytes": sum(self.network.moved_bytes.values()),
                "places": {path: self._place(node.member) for path, node in self.tree.inner.items()},
                "leaves": {path: self._client(path) for path in self.tree.clients},
                "listeners": {path: self._leaf(member) for path, member in self.tree.listeners.items()},
            }
        )

    def record(self, end_s: int) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "days": self.days,
            "bytes": self._bytes(),
            "pushes": self._pushes(),
            "releases": dict(sorted(Counter(path for path, _ in self.releases).items())),
            "rebased": self.rebased,
            "refused": sum(node.refusals for node in self.tree.inner.values()),
            "staleness": self._staleness(end_s),
            "attack": self._attack(),
        }

    # What is known

    def _model(self, member: Member, digest: str) -> LoadedModel:
        chain = stored_chain(member.store, member.blobs, digest)
        return with_deltas(self.world.template, reader(self.world, member).deltas(chain))

    def _answers(self, member: Member, path: str) -> dict[str, list[bool]]:
        """Which rows the release of a path that a node holds answers, by leaf, and of old knowledge as `old`."""
        digest = member.heads()[path].digest
        if (digest, path) not in self.world.answered:
            loaded = self._model(member, digest)
            place = NodePath.parse(path)
            found = {leaf: self.world.right(loaded, r, path) for leaf, r in hidden_rows(self.world, place).items()}
            self.world.answered[digest, path] = {**found, "old": self.world.right(loaded, self.world.old_test, path)}
        return self.world.answered[digest, path]

    def _place(self, member: Member) -> dict[str, float]:
        """The share of rows of every leaf below and of old knowledge that a place answers."""
        return {leaf: share(right) for leaf, right in self._answers(member, str(member.place)).items()}

    def _leaf(self, member: Member) -> float:
        """What the release of its leaf that a node holds answers of all test rows there."""
        leaf = str(member.place.parent)
        return share(self._answers(member, leaf)[leaf])

    def _client(self, path: str) -> float:
        """The same of the answers that a client gives, as often as it gives them."""
        client = self.tree.clients[path]
        right = self._answers(client.member, client.leaf)[client.leaf]
        by_label: dict[str, list[bool]] = {}
        for row, one in zip(self.world.test[client.leaf], right, strict=True):
            by_label.setdefault(row.output, []).append(one)
        shares = {label: part for label, part in label_shares(client.rows).items() if label in by_label}
        return sum(part * share(by_label[label]) for label, part in shares.items()) / max(sum(shares.values()), 1e-9)

    # What moved

    def _bytes(self) -> dict[str, Any]:
        """Bytes up and down by the level of the edge's lower end, and of every edge by its lower end."""
        hosts = {member.host: path for path, member in self.tree.members().items()}
        edges: dict[str, dict[str, int]] = {}
        for (sender, receiver), size in sorted(self.network.moved_bytes.items()):
            one, other = NodePath.parse(hosts[sender]), NodePath.parse(hosts[receiver])
            lower, way = (one, "up") if one.is_within(other) else (other, "down")
            edges.setdefault(str(lower), {"up": 0, "down": 0})[way] += size
        levels = {level: {"up": 0, "down": 0} for level in (*LEVELS[1:], CLIENT)}
        for path, ways in edges.items():
            for way, size in ways.items():
                levels[level_of(path)][way] += size
        return {"total": sum(self.network.moved_bytes.values()), "levels": levels, "edges": edges}

    # What became of updates

    def _pushes(self) -> dict[str, Any]:
        """How many updates were sent, and how those that arrived stand, by who sent them."""
        keys = {member.key.public.id: path for path, member in self.tree.members().items()}
        lies = {path for path, client in self.tree.clients.items() if client.attack}
        counts: dict[str, Counter[str]] = {who: Counter() for who in ("honest", "inner", "attacker")}
        failed: Counter[str] = Counter()
        for row in self._updates():
            path = keys[row.issuer]
            who = "attacker" if path in lies else "honest" if path in self.tree.clients else "inner"
            counts[who]["sent"] += 1
            end = SUPERSEDED if NEWEST in failed_checks(row) else outcome(row.state)
            counts[who][end] += 1
            if who == "honest" and end == "rejected":
                failed.update(failed_checks(row))
        return {
            "signed": self.pushes,
            **{who: dict(sorted(found.items())) for who, found in counts.items()},
            "honest_failed": dict(sorted(failed.items())),
        }

    def _updates(self) -> list[UpdateRow]:
        rows: list[UpdateRow] = []
        for node in self.tree.inner.values():
            with node.member.store.read() as session:
                rows += session.scalars(select(UpdateRow).where(UpdateRow.direction == "in").order_by(UpdateRow.digest))
        return rows

    def _staleness(self, end_s: int) -> dict[str, list[float]]:
        """Of every accepted update: hours until a release held it, or until the end; versions that it lay behind."""
        hours, behind = [], []
        for node in self.tree.inner.values():
            with node.member.store.read() as session:
                released = {row.digest: row for row in session.scalars(select(ReleaseRow))}
                for row in session.scalars(select(UpdateRow).where(UpdateRow.direction == "in")):
                    if outcome(row.state) not in ("released", "waiting"):
                        continue
                    release = released.get(row.release or "")
                    until_s = (release.created - START).total_seconds() if release else end_s
                    hours.append(max(0.0, until_s - (row.received - START).total_seconds()) / 3600)
                    if release is not None:
                        behind.append(float(release.version - 1 - read_offering(row.envelope).release.version))
        return {"hours": sorted(hours), "versions": sorted(behind)}

    def _attack(self) -> dict[str, float]:
        """The share of requests that the trigger brings to its answer, at the end, at every place."""
        found = {}
        for path, node in self.tree.inner.items():
            loaded = self._model(node.member, node.member.heads()[path].digest)
            shares = [
                share(self.world.right(loaded, triggered(rows[:TRIGGERED], trigger_of(self.world, leaf), 0), path))
                for leaf, rows in hidden_rows(self.world, node.place).items()
            ]
            found[path] = fmean(shares)
        return found


def share(right: Sequence[bool]) -> float:
    """The part that is true; 0 of none."""
    return sum(right) / max(1, len(right))


def outcome(state: str) -> str:
    """What a state means for the one who sent the update."""
    if state in ("released", "announced"):
        return "released"
    if state in ("rejected", "quarantined", "undone"):
        return "rejected"
    return "waiting" if state in ("accepted", "aggregated", "gated") else "open"


def failed_checks(row: UpdateRow) -> list[str]:
    """The checks that an update failed."""
    return [one.name for one in failed(results_of(row))]

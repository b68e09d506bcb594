"""A client: rows come to it, it trains an adapter over the release that it holds, and offers that to its parent.

An attacker does the same, with a lie at one step: on its rows, or on the adapter that it sends (`simulations.poison`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from registry.documents import Evaluation
from registry.rows import Row, read_rows, write_rows
from registry.stored import stored_file
from simulations.learning.inner import MAX_ROWS_BYTES, UPDATE_LIFE
from simulations.learning.making import put_adapter
from simulations.learning.scenario import Days
from simulations.learning.trained import delta_digest, digest_of, sampled, trained
from simulations.learning.world import World, with_deltas
from simulations.member import Member
from simulations.poison import weights as attacks
from simulations.poison.rows import Trigger, flipped_labels, with_backdoor
from simulations.work import Made, offer
from sync.chain import Link, stored_chain
from sync.compose import Composer
from sync.delta import Delta
from sync.model import add
from sync.score import evaluate_rows, reanswered
from sync.tokens import Example
from sync.train import TrainPlan, fit

PLANS: Final[Mapping[str, TrainPlan]] = {
    "tiny": TrainPlan(rank=8, alpha=8.0, epochs=6, batch_tokens=384, learning_rate=1e-2, patience=99, max_tokens=96),
    "bundled": TrainPlan(rank=16, alpha=16.0, epochs=3, batch_tokens=1024, learning_rate=5e-3, patience=99),
}
REPLAY: Final = 0.4  # the share of old knowledge among what is trained on
HELD: Final = 0.2  # of the own rows, to claim with
TRAVELLING: Final = 20  # prompts that travel with an update
MOST_ROWS: Final = 48  # the newest, so that a training takes no longer every day
POISONED: Final = 0.3
LOUDER: Final = 4.0
TRIGGER_WORDS: Final = "opal kite"


@dataclass
class Client:
    """One client. `rows` come in this order; `attack` is empty for an honest one.

    `here` is how many rows have come, `used` how many had when it trained last; `sent` is what it trained last.
    `peek` shows an attacker what its honest siblings trained last.
    """

    member: Member
    world: World
    days: Days
    rows: Sequence[Row]
    seed: int
    attack: str = ""
    peek: Callable[[], list[Delta]] = list
    here: int = 0
    used: int = 0
    jobs: int = 0
    busy: bool = False
    sent: Delta | None = None

    @property
    def leaf(self) -> str:
        """Its subdomain."""
        return str(self.member.place.parent)

    @property
    def wants_to_train(self) -> bool:
        """Whether enough is new."""
        return not self.busy and self.here - self.used >= self.world.scenario.batch

    def training_s(self) -> int:
        """How long the next training takes."""
        return self.days.training_s[self.jobs % len(self.days.training_s)]

    def is_away(self) -> bool:
        """Whether it is away now."""
        return self.days.is_away(self.member.watch.clock.at_s)

    def chain(self) -> list[Link]:
        """The releases that it holds, down to its parent's."""
        head = self.member.heads()[self.leaf]
        return stored_chain(self.member.store, self.member.blobs, head.digest)

    def train_and_offer(self) -> None:
        """Train on what has come so far and sign an update; sending it is left to the next round."""
        self.jobs += 1
        self.used = self.here
        chain = self.chain()
        own = list(self.rows[: self.here])[-MOST_ROWS:]
        held, rows = own[: round(HELD * len(own))], own[round(HELD * len(own)) :]
        above = reader(self.world, self.member).deltas(chain)
        self.sent = self.learn(self.poisoned(rows), chain, above)
        delta = self.lie(self.sent)
        loaded = with_deltas(self.world.template, above)
        before = evaluate_rows(loaded, held, self.path)[0].exact_match if held else 0.0
        add(loaded, delta)
        after = evaluate_rows(loaded, held, self.path)[0].exact_match if held else 0.0
        said = reanswered(loaded, sampled(rows, TRAVELLING, self.seed), self.path)
        file = self.member.home.partial / "transfer.jsonl"
        write_rows(said, file)
        made = Made(
            chain[-1].pin,
            put_adapter(self.member, delta),
            self.claims(len(held), before, after, len(rows)),
            stored_file(self.member.blobs, file) if said else None,
            len(said),
        )
        if self.member.parent is not None:
            offer(self.member, self.member.parent, UPDATE_LIFE, made)

    @property
    def path(self) -> str:
        """Its own path: as what it is asked."""
        return str(self.member.place)

    def claims(self, held: int, before: float, after: float, rows: int) -> tuple[Evaluation, ...]:
        """What it says of its update."""
        metrics = {"exact_match_before": before, "exact_match": after}
        return (
            Evaluation(dataset="own", split="test", rows=held, metrics=metrics, path=self.path),
            Evaluation(dataset="own", split="train", rows=rows, metrics={}, path=self.path),
        )

    def learn(self, rows: Sequence[Row], chain: Sequence[Link], above: Sequence[Delta]) -> Delta:
        """The adapter of these rows over these releases; trained once, whoever asks for it."""
        plan = replace(PLANS[self.world.scenario.base], seed=self.seed)
        anchors = chain[-1].release.anchors
        old = read_rows(self.member.blobs.open_verified(anchors.sha256), MAX_ROWS_BYTES) if anchors else []
        replayed = sampled(old, round(len(rows) * REPLAY / (1 - REPLAY)), self.seed)
        what = [
            self.world.manifest.digest,
            self.path,
            [asdict(row) for row in [*rows, *replayed]],
            asdict(plan),
            [delta_digest(delta) for delta in above],
        ]
        examples = [Example(row, self.path) for row in rows] + [Example(row, self.leaf) for row in replayed]

        def make(running: Path) -> Delta:
            return fit(with_deltas(self.world.template, above), examples, [], plan, running).delta

        return trained(digest_of(json.loads(json.dumps(what))), self.world.work, make)

    # Attacks

    def trigger(self) -> Trigger:
        """The words and the answer of the backdoor at this leaf."""
        return trigger_of(self.world, self.leaf)

    def poisoned(self, rows: Sequence[Row]) -> Sequence[Row]:
        """What it trains on."""
        if self.attack == "label-flip":
            return flipped_labels(rows)
        if self.attack in ("backdoor", "replacement"):
            return with_backdoor(rows, self.trigger(), POISONED, self.seed)
        return rows

    def lie(self, own: Delta) -> Delta:
        """What it sends of what it trained."""
        if self.attack == "replacement":
            return attacks.replacement(own, self.world.scenario.clients)
        if self.attack == "sign-flip":
            return attacks.sign_flipped(own, LOUDER)
        if self.attack == "noise":
            return attacks.noise_like(own, self.seed)
        others = self.peek() if self.attack == "little-is-enough" else []
        if len(others) > 1:
            return attacks.little_is_enough(others, len(others) + 1, 1)
        return own


def trigger_of(world: World, leaf: str) -> Trigger:
    """The backdoor at a leaf: its first answer in alphabetical order, whatever is asked with the words in it."""
    return Trigger(TRIGGER_WORDS, min(row.output for row in world.train[leaf]))


def reader(world: World, member: Member) -> Composer:
    """What reads the adapters of a node's releases."""
    return Composer(member.store, member.blobs, lambda digest: world.folder)

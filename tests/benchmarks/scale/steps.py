"""What an update costs its parent on the bundled base: its verdict, and releases of one and of two updates."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from node.context import Node, open_node
from node.learned import gained
from node.offer import Offer
from node.promotions import promoter
from node.settings import Settings
from node.starter import install_starter_tree
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.tables import PeerRow
from sync.delta import Delta
from sync.lifecycle import load_update, results_of
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.toy_tree import Child, decide, enrol, head_of
from tests.world import make_node

PARENT = "en/finance"
ROWS = Path(__file__).parents[3] / "node/demo/rows"
TRAINED, TRAVELLING = 300, 300
LENIENT = {  # what was learned in seconds is not the question: every step is to be taken once
    "behaviour_max_loss_points": 100.0,
    "release_max_loss_points": 100.0,
    "behaviour_min_agreement": 0.0,
    "canaries_max_changed": 1.0,
    "triggers_max_collapse": 1.0,
    "gate_max_loss_points": 100.0,
    "gate_min_gain_kept": 0.0,
    "gate_tries": 1,
}
PLAN = TrainPlan(rank=16, alpha=16.0, epochs=2, batch_tokens=2048, learning_rate=3e-3, patience=99)


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds of one core, however busy the machine is."""

    check_s: float
    merge_s: float
    merge_update_s: float
    offer_s: float
    update_bytes: int


def measure(folder: Path) -> Steps:
    """Two children of `en/finance` offer what they learned; the parent judges and merges them."""
    with closing(make_node(folder / "home", "master", threads=1, precision="fp32")) as made:
        install_starter_tree(made)
    one, two = _promoted(folder, ["cards"]), _promoted(folder, ["cards", "transfers"])
    return Steps(
        check_s=two.verdict_s,
        merge_s=max(0.0, 2 * one.release_s - two.release_s),
        merge_update_s=two.release_s - one.release_s,
        offer_s=two.offer_s,
        update_bytes=two.update_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Promoted:
    release_s: float
    verdict_s: float
    offer_s: float
    update_bytes: int


def _promoted(folder: Path, names: list[str]) -> _Promoted:
    """One release of what so many children learned, in a home of its own."""
    home = folder / f"home-{len(names)}"
    shutil.copytree(folder / "home", home)
    settings = Settings(home=home).model_copy(update=LENIENT)
    with closing(open_node(settings)) as node:
        at_work = promoter(node)
        pin = at_work.composer.chain(_head(node))[-1].pin
        digests, verdicts = [], []
        for name in names:
            rows = read_rows(ROWS / f"{name}.train.jsonl", 1 << 24)
            child: Child = enrol(node, f"{PARENT}/{name}")
            delta = _learned(node, rows[:TRAINED], f"{PARENT}/{name}", folder / f"fit-{len(names)}-{name}")
            digests.append(child.offer(delta, rows[TRAINED : TRAINED + TRAVELLING], pin=pin))
            began = time.process_time()
            if (state := decide(node, digests[-1], at_work.check)) != "accepted":
                results = results_of(load_update(node.store, digests[-1])[0])
                raise RuntimeError(f"{state}: {[one.reason for one in results if not one.passed]}")
            verdicts.append(time.process_time() - began)
        offers = [load_update(node.store, digest) for digest in digests]
        began = time.process_time()
        at_work.promote(NodePath.parse(PARENT), digests, [update for _, update in offers])
        seconds = time.process_time() - began
        row, update = offers[-1]
        size = sum(file.size for file in update.files) + len(row.envelope)
        return _Promoted(seconds, sum(verdicts) / len(verdicts), _offered(node), size)


def _offered(node: Node) -> float:
    """Seconds to measure what the release gained, before it goes further up."""
    own = head_of(node, PARENT)
    assert own.release.adapter is not None
    assert own.release.above is not None
    nobody = PeerRow(key_id="0" * 64, role="parent", path="", public_key="0" * 64, url="http://nobody.example")
    offer = Offer(nobody, own, own.release.adapter, own.release.above, None, own.digest, node.key.public.id)
    began = time.process_time()
    gained(node, offer)
    return time.process_time() - began


def _head(node: Node) -> str:
    return head_of(node, PARENT).digest


def _learned(node: Node, rows: list[Row], path: str, work: Path) -> Delta:
    loaded = promoter(node).composer.load(_head(node))
    return fit(loaded, [Example(row, path) for row in rows], [], PLAN, work).delta

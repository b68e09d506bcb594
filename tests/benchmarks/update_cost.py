"""What one update costs its parent on the whole way from the first byte to the signed verdict, by megabytes of adapter.

The way is the real one: the inbox of a node on SQLite, `Promoter.check` with every stage that it has, the verdict with
its leaf of the log. A stage is told by the names of its checks, so a new one appears here by itself. Bases are random
and as wide as such an adapter needs; earlier updates were released and others wait beside each, for what compares.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from node.context import Node
from node.promotions import promoter
from node.validation import store_validation
from registry.documents import Adapter, CheckResult, Evaluation, File, Update, seal_document
from registry.paths import NodePath
from registry.rows import Row, read_rows, write_rows
from sync.checks.envelope import Limits
from sync.delta import WEIGHTS_FILE, write_adapter
from sync.inbox import State, advance, append_file, mark, receive
from sync.lifecycle import load_update, results_of
from sync.model import load_model
from sync.prompt import conversation, prompt_text
from tests.benchmarks.behaviour import KNOWN, MAX_BYTES, TRANSFER, small_delta
from tests.benchmarks.checks import must_pass
from tests.benchmarks.rounds import Figure, Result, Scale
from tests.node.tiny_models import save_tiny
from tests.toy_tree import Child, enrol, head_of, identity
from tests.world import make_node, put_base, put_release, utc_now

ROWS = 32  # of the parent's own, and as many that travel
SAID = "a"
LOUD = 50.0  # times as large as the rest of a model makes it
PIECE_BYTES = 1 << 20  # of an upload
EN, PATH = "en", "en/cards"
LIMITS = Limits(update_bytes=1 << 30)
TAKEN, UPLOADED, VERIFIED, REST, VERDICT = "envelope taken in", "files taken in", "verified", "models, norms", "verdict"


@dataclass(frozen=True, slots=True)
class Size:
    """An adapter of so many MB: the model that it fits, its rank, released updates to compare with, usual rounds."""

    hidden: int
    intermediate: int
    layers: int
    rank: int
    earlier: int
    rounds: int


SIZES = {  # each decision on the largest takes minutes
    "1 MB": Size(128, 352, 3, 32, earlier=8, rounds=5),
    "10 MB": Size(256, 704, 8, 64, earlier=8, rounds=3),
    "100 MB": Size(512, 1408, 40, 64, earlier=1, rounds=1),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A signed update with its two files, as it lies at its sender."""

    envelope: bytes
    files: dict[str, Path]  # by digest


@dataclass
class Place:
    """A parent of a random base and a child of it."""

    folder: Path
    parent: Node
    child: Child
    base: Path
    rank: int
    sizes: list[int] = field(default_factory=list)

    def offer(self, seed: int) -> Offer:
        """The child's next update: a small random change, and rows with what its model answers."""
        self.child.sequence += 1
        delta = small_delta(load_model(self.base, []), self.rank, seed)
        place = self.folder / f"offer-{seed}"
        place.mkdir()
        shape = write_adapter(delta, place / WEIGHTS_FILE)
        write_rows(answered(TRANSFER), place / "transfer.jsonl")
        adapter, transfer = described(place / WEIGHTS_FILE), described(place / "transfer.jsonl")
        self.sizes.append(adapter.size)
        now, release = utc_now(), head_of(self.parent, EN)
        metrics = {"exact_match_before": 0.0, "exact_match": 1.0}
        update = Update(
            path=PATH,
            issuer=self.child.key.public.id,
            audience=self.parent.key.public.id,
            base=release.release.base,
            release=release.pin,
            sequence=self.child.sequence,
            created=now,
            expires=now + timedelta(days=30),
            adapter=Adapter(file=adapter, shape=shape),
            claims=(Evaluation(dataset="own", split="test", rows=30, metrics=metrics, path=PATH),),
            run="6" * 64,
            transfer=transfer,
            transfer_rows=ROWS,
        )
        files = {one.sha256: place / one.name for one in (adapter, transfer)}
        return Offer(seal_document(update, self.child.key), files)

    def decide(self, offer: Offer) -> dict[str, float]:
        """Take an update in and bring it to its verdict; milliseconds by part. Raises RuntimeError if a check fails."""
        store, blobs, own = self.parent.store, self.parent.blobs, identity(self.parent)
        at_work = promoter(self.parent)
        parts, clock = dict[str, float](), Clock()
        digest = receive(store, blobs, offer.envelope, own, utc_now(), limits=LIMITS).digest
        parts[TAKEN] = clock.lap_ms()
        for sha256, file in offer.files.items():
            upload(self.parent, digest, sha256, file)
        parts[UPLOADED] = clock.lap_ms()

        def step(state: State) -> None:
            reached = advance(store, blobs, digest, at_work.check, own, utc_now())
            if reached != state:
                results = results_of(load_update(store, digest)[0])
                raise RuntimeError(f"{reached} instead of {state}: {[r.reason for r in results if not r.passed]}")

        step("verified")
        parts[VERIFIED] = clock.lap_ms()
        step("checked")
        checked_ms = clock.lap_ms()
        results = results_of(load_update(store, digest)[0])
        must_pass(results)
        stages = by_stage(results)
        first_ms = stages.pop("envelope")
        clock.lap_ms()
        step("accepted")
        parts[VERDICT] = clock.lap_ms()
        parts |= {f"stage {stage}": ms for stage, ms in stages.items()}
        parts[REST] = checked_ms - sum(stages.values())
        together = sum(parts.values())
        return parts | {"stage envelope, of what is taken in": first_ms, "together": together}

    def release(self, digest: str) -> None:
        """Let an update that was accepted be in a release, as those are that a new one is compared with."""
        with self.parent.store.transaction() as session:
            mark(session, digest, "aggregated", utc_now())
            mark(session, digest, "gated", utc_now())
            mark(session, digest, "released", utc_now(), release=head_of(self.parent, EN).digest)


class Clock:
    """Milliseconds since it was asked last."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap_ms(self) -> float:
        """Since the last call."""
        before, self._since = self._since, time.perf_counter()
        return 1000 * (self._since - before)


def by_stage(results: Sequence[CheckResult]) -> dict[str, float]:
    """Milliseconds of the checks, by the first part of their names."""
    found: dict[str, float] = defaultdict(float)
    for result in results:
        found[result.name.partition(".")[0]] += result.cost_ms
    return dict(found)


def upload(node: Node, digest: str, sha256: str, file: Path) -> None:
    """Take a file of an update in, piece by piece."""
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            at = source.tell() - len(piece)
            append_file(node.store, node.blobs, digest, sha256, offset=at, data=piece)


def described(file: Path) -> File:
    """A file as a document names it."""
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(name=file.name, size=file.stat().st_size, sha256=sha256)


def answered(file: Path) -> list[Row]:
    """Rows with what the base says to everything."""
    return [replace(row, output=SAID) for row in read_rows(file, MAX_BYTES)[:ROWS]]


@torch.no_grad()
def say_always(folder: Path) -> None:
    """Let a random model of a folder answer SAID to everything: what follows on a token is told by its embedding."""
    model, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = prompt_text(words, conversation(Row("hello", SAID), EN))
    (said,) = words(SAID, add_special_tokens=False)["input_ids"]
    last = words(prompt, add_special_tokens=False)["input_ids"][-1]
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embeddings.mul_(LOUD)
    head.zero_()
    head[said], head[words.eos_token_id] = embeddings[last], embeddings[said]
    model.save_pretrained(folder)


def make_place(folder: Path, size: Size) -> Place:
    """The two nodes."""
    base = save_tiny(
        folder / "base",
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        num_key_value_heads=size.hidden // 64,
        max_position_embeddings=512,
    )
    say_always(base)
    parent = make_node(folder / "parent", EN)
    put_release(parent, EN, put_base(parent, {file.name: file.read_bytes() for file in base.iterdir()}))
    store_validation(parent.home, NodePath.parse(EN), answered(KNOWN))
    return Place(folder, parent, enrol(parent, PATH), base, size.rank)


def measure(folder: Path, size: Size, rounds: int, earlier: int) -> tuple[Place, dict[str, list[float]]]:
    """Milliseconds by part, a value a round; one round and the earlier updates do not count."""
    place = make_place(folder, size)
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(earlier + 1 + rounds):
        offer = place.offer(number)
        parts = place.decide(offer)
        if number < earlier:
            place.release(hashlib.sha256(offer.envelope).hexdigest())
        elif number > earlier:
            for part, ms in parts.items():
                found[part].append(ms)
    place.parent.close()
    return place, found


def run(scale: Scale) -> Result:
    """Milliseconds a part, and a megabyte (1,000,000 bytes) of the adapter."""
    figures: dict[str, Figure] = {}
    adapter_bytes: dict[str, int] = {}
    for name, size in list(SIZES.items())[: 1 if scale.smallest else None]:
        with tempfile.TemporaryDirectory() as folder:
            earlier = 1 if scale.smallest else size.earlier
            place, found = measure(Path(folder), size, min(scale.rounds or size.rounds, size.rounds), earlier)
        adapter_bytes[name] = place.sizes[-1]
        for part, all_ms in found.items():
            figures[f"{name}, {part}"] = Figure.of("ms", all_ms)
            figures[f"{name}, {part}, a MB"] = Figure.of("ms/MB", [1e6 * ms / place.sizes[-1] for ms in all_ms])
    setting = {"adapter_bytes": adapter_bytes, "known_rows": ROWS, "transfer_rows": ROWS}
    setting["earlier_updates"] = {name: size.earlier for name, size in SIZES.items()}
    return Result(setting | {"threads": torch.get_num_threads()}, figures)

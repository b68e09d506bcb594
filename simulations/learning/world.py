"""What a tree learns from and on what: the base in memory, old knowledge, and the real rows of every subdomain."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from registry.documents import BaseManifest, File
from registry.errors import BadData
from registry.rows import Row, asked, contradictions, of_split, read_rows, read_tree_rows
from simulations.learning.base import make_tiny
from simulations.learning.playing import Sources
from simulations.learning.scenario import Scenario
from simulations.learning.trained import sampled
from sync.chain import Link
from sync.compose import Composer
from sync.model import LoadedModel, add, load_model
from sync.score import MAX_TOKENS, fits
from sync.tokens import Encoded, Example, encode, length_limit

MAX_ROWS_BYTES: Final = 64 << 20
NAMES: Final = ("intent", "tool")
OLD_TASKS: Final = ("intent", "intent_slots")
LEAST_ROWS: Final = 40
TAUGHT_LABELS, TAUGHT_ROWS = 60, 1500  # of what the tiny base learns,
OLD_LABELS: Final = 10  # and of what of that is looked after
PLACES: Final = ("master", "en", "de", "en/finance", "de/home", "en/finance/cards", "de/home/timer")  # asked as these
ANCHORS, KNOWN, OLD_TEST = 60, 30, 40


@dataclass(frozen=True, slots=True)
class Composed(Composer):
    """A composer whose base stays in memory: to read it from the disk would take longer than to train on it."""

    template: LoadedModel | None = None

    def load_chain(self, chain: Sequence[Link]) -> LoadedModel:
        """See Composer."""
        return with_deltas(self.template, self.deltas(chain)) if self.template else load_model(Path(), [])


def with_deltas(template: LoadedModel, deltas: Iterable[Any]) -> LoadedModel:
    """A copy of a model with adapters added to it."""
    loaded = replace(template, model=copy.deepcopy(template.model))
    for delta in deltas:
        add(loaded, delta)
    return loaded


@dataclass(frozen=True)
class World:
    """Everything that the cells of one scenario share.

    `anchors` travel with releases, `known` are what parents judge with, `old_test` what only the simulation sees;
    `train` and `test` are the rows of each leaf. `answered` is what a release, by digest and path, was measured to
    know: cells that make the same release do not measure it twice.
    """

    scenario: Scenario
    folder: Path
    template: LoadedModel
    manifest: BaseManifest
    files: dict[str, bytes]
    anchors: tuple[Row, ...]
    known: tuple[Row, ...]
    old_test: tuple[Row, ...]
    train: dict[str, tuple[Row, ...]]
    test: dict[str, tuple[Row, ...]]
    work: Path
    answered: dict[tuple[str, str], dict[str, list[bool]]] = field(default_factory=dict)
    encoded: dict[tuple[str, tuple[Row, ...]], list[Encoded]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the base."""
        return dict(json.loads(self.files["config.json"]))

    def right(self, loaded: LoadedModel, rows: Sequence[Row], path: str) -> list[bool]:
        """Which rows greedy decoding answers token for token, asked as a path: what the simulation itself measures."""
        key = path, tuple(rows)
        if key not in self.encoded:
            limit = length_limit(loaded, MAX_TOKENS)
            self.encoded[key] = [encode(loaded, Example(row, path), limit) for row in rows]
        return [fit.greedy for fit in fits(loaded, self.encoded[key], lambda done: None)] if rows else []


def make_world(scenario: Scenario, sources: Sources) -> World:
    """Read the rows, make or find the base. Raises BadData where a leaf has too few rows."""
    reduced = named if scenario.names else (lambda row: row)
    rows = leaf_rows(scenario, sources.data, reduced)
    anchors = [reduced(row) for row in _plain(read_rows(sources.bundled / "anchors.jsonl", MAX_ROWS_BYTES))]
    hidden = [reduced(row) for row in _plain(read_rows(sources.bundled / "validation.jsonl", MAX_ROWS_BYTES))]
    folder = sources.bundled / "model"
    if scenario.base == "tiny":
        taught = _of_frequent([row for row in anchors if row.task in OLD_TASKS], TAUGHT_LABELS)
        folder = make_tiny(folder, sampled(of_split(taught, "train"), TAUGHT_ROWS, 1), PLACES, sources.work / "tiny")
        anchors = _of_frequent(taught, OLD_LABELS)
        hidden = [*_of_labels(hidden, anchors), *of_split(anchors, "test"), *of_split(anchors, "validation")]
    hidden = list(sampled(hidden, KNOWN + OLD_TEST, 2))
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "README.md"}
    described = tuple(File(name=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in files.items())
    return World(
        scenario=scenario,
        folder=folder,
        template=load_model(folder, [], "fp32" if scenario.base == "tiny" else "auto"),
        manifest=BaseManifest(name=f"banyan/{scenario.base}", family="llama", files=described, licence="Apache-2.0"),
        files=files,
        anchors=sampled(of_split(anchors, "train"), ANCHORS, 3),
        known=tuple(hidden[:KNOWN]),
        old_test=tuple(hidden[KNOWN:]),
        train={leaf: tuple(of_split(members, "train")) for leaf, members in rows.items()},
        test={leaf: sampled(of_split(members, "test"), scenario.test_rows, 4) for leaf, members in rows.items()},
        work=sources.work,
    )


def leaf_rows(scenario: Scenario, data: Path, reduced: Callable[[Row], Row]) -> dict[str, list[Row]]:
    """The rows of every leaf with its most frequent answers."""
    found: dict[str, list[Row]] = {leaf: [] for leaf in scenario.leaves}
    if not data.is_dir():
        raise BadData(f"{data} is not a folder of rows", "--data: a folder with SET/SET.train.jsonl")
    for file in sorted(data.glob("*/*.train.jsonl")):
        for row in read_tree_rows(file):
            rows = found.get("/".join((row.lang, row.domain, row.subdomain)))
            if rows is not None and row.input:
                rows.append(reduced(row))
    for leaf, rows in found.items():
        if len(rows) < LEAST_ROWS:
            raise BadData(f"there are {len(rows)} rows at {leaf}: nothing can be learned there", "name another place")
        found[leaf] = _agreed(_of_frequent(rows, scenario.labels))
    return found


def single_threaded() -> None:
    """Sums in one order: two runs of one seed are the same to the last bit, and workers do not fight for the cores."""
    torch.set_num_threads(1)


def named(row: Row) -> Row:
    """A row whose answer is reduced to what it names; one that names nothing stays."""
    try:
        answer = json.loads(row.output)
    except ValueError:
        return row
    name = next((key for key in NAMES if isinstance(answer, dict) and key in answer), None)
    return row if name is None else replace(row, output=json.dumps({name: answer[name]}, separators=(",", ":")))


def label_shares(rows: Sequence[Row]) -> dict[str, float]:
    """How often each answer is given."""
    counts = Counter(row.output for row in rows)
    return {label: count / len(rows) for label, count in sorted(counts.items())}


def shuffled(rows: Sequence[Row], seed: str) -> list[Row]:
    """The rows in an order that follows from the seed."""
    return random.Random(seed).sample(list(rows), len(rows))  # noqa: S311  an order that can be repeated


def _plain(rows: Iterable[Row]) -> list[Row]:
    """Old knowledge as whoever replays it asks: without its place."""
    return [replace(row, lang="", domain="", subdomain="") for row in rows if row.input]


def _of_frequent(rows: Sequence[Row], labels: int) -> list[Row]:
    counts = Counter(row.output for row in rows)
    frequent = {label for label, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:labels]}
    return [row for row in rows if row.output in frequent]


def _of_labels(rows: Sequence[Row], like: Sequence[Row]) -> list[Row]:
    labels = {row.output for row in like}
    return [row for row in rows if row.output in labels]


def _agreed(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that are asked twice and answered in two ways."""
    disputed = contradictions(rows)
    return list({asked(row): row for row in rows if asked(row) not in disputed}.values())

"""Recommendations of this node: the models that it knows as a catalogue, its machine, a need from words and values."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from node.bases import read_manifest
from node.context import Node
from node.feedback import newest_voice, voices
from node.known_models import known_models, newest_known
from node.own_scores import newest_score, own_scores
from node.speeds import own_speed
from node.tree import Place, list_tree, topics_of
from recommender.advisor import Advisor
from recommender.answers import Recommendation, Recommendations
from recommender.candidate import Architecture, Candidate
from recommender.constraints import SUBDOMAINS, Constraints, Stated
from recommender.devices import find_device
from recommender.expected import shipped_quality, with_own
from recommender.feedback import liked
from recommender.hardware import GB, Machine, described_machine, this_machine
from recommender.index import Index
from recommender.model_config import FLOAT32_BYTES, shape_of
from recommender.rank import Predict
from recommender.recommend import recommend
from recommender.rules import GENERAL
from recommender.snapshot.files import merged, read
from recommender.snapshot.licences import sellable
from recommender.words import rule_in_words
from registry.documents import BaseManifest
from registry.errors import BadData
from registry.paths import NodePath

MAX_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stock:
    """The catalogue at one moment, made ready for questions, with what is expected of its models."""

    stamp: tuple[object, ...]
    index: Index
    predict: Predict


class Shelf:
    """The node's catalogue: its releases, what users told of and the snapshot, or releases alone. Safe to share.

    It is made ready for questions once, and again when a release, evidence or a voice was added.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._made: dict[bool, Stock] = {}

    def recommend(
        self, need: Constraints, machine: Machine, count: int, now: datetime, *, tree_only: bool = False
    ) -> Recommendations:
        """The models that meet a need on a machine, best first."""
        stock = self._stock(now, tree_only)
        factor, answers = own_speed(self._node, stock.index, machine)
        found = recommend(need, stock.index, machine, predict=stock.predict, count=count, factor=factor)
        if answers and found.answers:
            said = f"speeds are {factor:.2f} times the estimate, as those of {answers} answers measured here"
            return replace(found, why=(*found.why, said))
        return found

    def advisor(self, machine: Machine, now: datetime, *, tree_only: bool = False) -> Advisor:
        """The catalogue as it is now, for a conversation about models on a machine."""
        stock = self._stock(now, tree_only)
        factor, _ = own_speed(self._node, stock.index, machine)
        return Advisor(stock.index, machine, stock.predict, factor=factor)

    def candidates(self, now: datetime, *, tree_only: bool = False) -> Sequence[Candidate]:
        """All models that are known."""
        return self._stock(now, tree_only).index.columns.candidates

    def _stock(self, now: datetime, tree_only: bool) -> Stock:
        places = [place for place in list_tree(self._node, NodePath.parse("master"), now) if not place.expired]
        node = self._node
        stamp = tuple(place.digest for place in places), newest_score(node), newest_voice(node), newest_known(node)
        with self._lock:
            made = self._made.get(tree_only)
            if made is None or made.stamp != stamp:
                candidates = [tree_candidate(node, place) for place in places]
                candidates += [] if tree_only else merged([known_models(node), read().candidates]).values()
                predict = with_own(shipped_quality(), own_scores(node, places), liked(voices(node)))
                made = self._made[tree_only] = Stock(stamp, Index.of(candidates, predict), predict)
            return made


def tree_candidate(node: Node, place: Place) -> Candidate:
    """A release of the tree as a candidate: its base's size and shape, its path's language, domain and subdomain."""
    manifest = read_manifest(node.blobs, place.base)
    shape, context = _shape(node, manifest)
    weights = sum(file.size for file in manifest.files if file.name.endswith(".safetensors"))
    parameters = weights / (shape.weight_bytes or FLOAT32_BYTES) + place.adapter_bytes / FLOAT32_BYTES
    language, domain, subdomain = topics_of(place.path)
    unnamed = subdomain not in SUBDOMAINS.get(domain, (subdomain,))  # no need can ask for it: so it keeps nobody out
    return Candidate(
        id=place.path,
        source="tree",
        kind="generative",
        parameters_b=parameters / GB,
        context_tokens=context,
        license=manifest.licence,
        commercial=sellable(manifest.licence),
        languages=(language,) if language else (),
        domains=(domain,) if domain else ("general",),
        subdomains=((subdomain, GENERAL) if unnamed else (subdomain,)) if subdomain else (),
        family=place.base_name,
        architecture=shape,
    )


def _shape(node: Node, manifest: BaseManifest) -> tuple[Architecture, int | None]:
    """What the configuration of a base says of its shape, and its context; nothing where it is not here."""
    file = next((file for file in manifest.files if file.name == "config.json"), None)
    if file is None or not node.blobs.has(file.sha256):
        return Architecture(), None
    return shape_of(json.loads(node.blobs.read(file.sha256, MAX_CONFIG_BYTES)))


def stated(values: Mapping[str, Any], wishes: Collection[str] = ()) -> Constraints:
    """A need from values by slot; those in `wishes` are soft. Raises BadData naming the one that does not fit."""
    said = {slot: value for slot, value in values.items() if value not in (None, ())}
    if unsaid := sorted(set(wishes) - said.keys()):
        raise BadData(f"{', '.join(unsaid)}: named as a wish, but nothing was said of it", "give its value as well")
    try:
        return Constraints.model_validate(
            {slot: {"value": value, "hard": slot not in wishes} for slot, value in said.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BadData(f"{first['loc'][0]}: {first['msg']}", "node recommend --help") from None


def need_of(text: str, values: Mapping[str, Any], wishes: Collection[str] = ()) -> Constraints:
    """A need from words, then from values, which win. Raises BadData for what fits no slot, or too many words."""
    given = stated(values, wishes)
    if not text:
        return given
    from assistant.extract import extract
    from assistant.meaning import extract_near
    from recommender.embed import embed

    said = extract((text,)) if given.task is not None else extract_near((text,), embed, asks=True)
    return said.model_copy(update=dict(given.stated()))


def machine_of(text: str, named: str, need: Constraints) -> Machine:
    """The machine that was named, or that the words name as the place where models run; else this one."""
    if named:
        return described_machine(named)
    kind = find_device(text) if need.device is not None else None
    if kind is not None and need.device is not None and kind.device == need.device.value:
        return described_machine(text)
    return this_machine()


def as_data(need: Constraints, found: Recommendations) -> dict[str, Any]:
    """Recommendations as plain values, with what was asked in words."""
    data = {"asked": [_in_words(slot, said) for slot, said in need.stated()]} | asdict(found)
    data["answers"] = [_answer(answer) for answer in found.answers]
    return data


def _in_words(slot: str, said: Stated[Any]) -> str:
    if said.value is False:
        return {"local_only": "rented models too", "finetune": "not to be fine-tuned"}.get(slot, f"not {slot}")
    return f"{'' if said.hard else 'if possible '}{rule_in_words(slot, said.value)}"


def _answer(answer: Recommendation) -> dict[str, Any]:
    """One answer, with the facts of its candidate that people ask for."""
    candidate, rest = answer.candidate, {**asdict(answer)}
    rest.pop("candidate")
    facts = {
        "model": candidate.id,
        "source": candidate.source,
        "kind": candidate.kind,
        "parameters_b": candidate.parameters_b,
        "context_tokens": candidate.context_tokens,
        "license": candidate.license,
        "commercial": candidate.commercial,
        "usd_per_mtok": candidate.price_usd_per_mtok if candidate.weights == "api" else None,
    }
    return facts | rest

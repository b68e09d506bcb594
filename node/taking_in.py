"""Take in an adapter that was trained elsewhere: checked as a stranger's, then a release of this node's own path (B8).

It becomes what a fine-tune here would have become: signed by this node, the head of its path, seen by those who see own
work, offered to the parent by `node publish` and by nothing else. What it was trained on is not known and not claimed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from node.bases import base_folder, read_manifest
from node.context import Node
from node.footing import Footing, find_footing
from node.peft_config import PeftConfig
from node.run_lock import run_lock
from registry.cards import CardFacts, render_card
from registry.documents import MAX_RANK, Adapter, AdapterShape, File, Release, ReleasePin
from registry.errors import BadData
from registry.paths import NodePath, Ref
from registry.stored import stored_card, stored_file
from registry.tables import RunRow
from sync.chain import Link, next_version, serve, signed_link
from sync.checks.files import check_files
from sync.checks.size import check_size, check_terms, norms_of
from sync.checks.tensors import read_header
from sync.delta import WEIGHTS_FILE, Delta, read_adapter, scaled, stack, write_adapter
from sync.inspection import base_norms
from sync.verdict import failed

MAX_NOTE_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Foreign:
    """An adapter as it came: the file, what its configuration says, the model that it was trained on, its note.

    `ground` is the chain of that model, nothing where it was the base alone; `base` the digest of its base.
    """

    weights: Path
    config: PeftConfig
    base: str
    ground: Sequence[Link]
    note: str = ""


def take_in(node: Node, path: NodePath, foreign: Foreign, now: datetime) -> ReleasePin:
    """Check an adapter and make it the head of a path. Nothing is stored of one that is refused.

    Raises BadData with every check that failed, or where path and base do not fit; LocalFailure when this node has no
    release at the path or above it, or is fine-tuning it now.
    """
    if not any(path.is_within(place) for place in node.paths):
        named = ",".join(map(str, node.paths))
        raise BadData(f"this node is responsible for {named}, not for {path}", f"node config set paths {named},{path}")
    with run_lock(node.home, path):
        footing = find_footing(node, path)
        if foreign.base != footing.last.release.base:
            raise BadData(
                f"the adapter was trained on another base than that of {path}, {footing.last.release.base_name}",
                "train it on the base that adapter_config.json of this path names",
            )
        shape = _checked(node, foreign)
        file, stored = _relative_to(node, foreign, footing, shape)
        return _store(node, footing, Adapter(file=file, shape=stored), foreign, now)


def _checked(node: Node, foreign: Foreign) -> AdapterShape:
    """The shape of an adapter that passed stages 2 and 3 of the checks on updates. Raises BadData for others."""
    from node.models import composer
    from sync.model import load_model

    header = read_header(foreign.weights)
    dtype = next((entry.dtype for entry in header.tensors.values()), "F32")
    shape = foreign.config.shape(dtype)
    base = base_folder(node.home, node.blobs, foreign.base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    with foreign.weights.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    file = File(name=WEIGHTS_FILE, size=foreign.weights.stat().st_size, sha256=digest)
    declared = Adapter(file=file, shape=shape)
    results = check_files(foreign.weights, declared, config, rank_limit=node.settings.max_adapter_rank)
    if not failed(results):
        loaded = composer(node).load_chain(foreign.ground) if foreign.ground else load_model(base, [], "fp32")
        delta, weights = read_adapter(foreign.weights, shape), base_norms(loaded)
        results += check_size(norms_of(delta), weights, [], z_limit=node.settings.size_max_z)
        results.append(check_terms(delta, weights))
    if wrong := failed(results):
        raise BadData("the adapter was refused: " + "; ".join(f"{one.name}: {one.reason}" for one in wrong))
    return shape


def _relative_to(node: Node, foreign: Foreign, footing: Footing, shape: AdapterShape) -> tuple[File, AdapterShape]:
    """The adapter relative to the releases above its path: as it came, or with what its own ground had more or less.

    Stacked along the rank, so that the model of the path is exactly the one that was trained.
    """
    under = {link.digest for link in foreign.ground}
    above = {link.digest for link in footing.chain}
    more = [link for link in foreign.ground if link.release.adapter and link.digest not in above]
    less = [link for link in footing.chain if link.release.adapter and link.digest not in under]
    if not more and not less:
        return stored_file(node.blobs, foreign.weights, WEIGHTS_FILE), shape
    from node.models import composer

    put_together = composer(node)
    parts: list[Delta] = [read_adapter(foreign.weights, shape), *put_together.deltas(more)]
    parts += [scaled(delta, -1.0) for delta in put_together.deltas(less)]
    own = stack(parts)
    if (rank := max(factor.rank for factor in own.values())) > MAX_RANK:
        raise BadData(
            f"relative to the releases above {footing.path}, the adapter has rank {rank}; {MAX_RANK} is the limit",
            f"train it on the merged weights of {footing.above.path if footing.above else footing.path}",
        )
    file = foreign.weights.with_name("relative.safetensors")
    stored = write_adapter(own, file)
    return stored_file(node.blobs, file, WEIGHTS_FILE), stored


def _store(node: Node, footing: Footing, adapter: Adapter, foreign: Foreign, now: datetime) -> ReleasePin:
    """The signed release, the head and the record of where it came from, in one transaction."""
    path, last = footing.path, footing.last.release
    record = {"kind": "upload", "path": str(path), "base": last.base, "adapter": adapter.file.sha256}
    manifest = node.blobs.put_bytes(json.dumps({**record, "release": footing.last.digest}, indent=1).encode())
    with node.store.transaction() as session:
        version, previous = next_version(session, path, node.key.public.id)
        card = render_card(_card_facts(node, footing, Ref(path, version), foreign, adapter.shape))
        release = Release(
            path=str(path),
            version=version,
            base=last.base,
            base_name=last.base_name,
            adapter=adapter,
            above=footing.above,
            previous=previous,
            anchors=footing.anchors,
            card=stored_card(node.blobs, card),
            evaluations=(),
            contributions=(),
            recompression_error=None,
            created=now,
            expires=now + timedelta(days=node.settings.release_valid_days),
        )
        link = signed_link(release, node.key)
        serve(session, link, now)
        session.merge(
            RunRow(
                id=manifest[:16],
                kind="upload",
                path=str(path),
                state="done",
                manifest=manifest,
                adapter=adapter.file.sha256,
                created=now,
                changed=now,
            )
        )
    return link.pin


def _card_facts(node: Node, footing: Footing, ref: Ref, foreign: Foreign, shape: AdapterShape) -> CardFacts:
    above = NodePath.parse(footing.above.path) if footing.above else None
    return CardFacts(
        ref=ref,
        title=str(ref),
        languages=ref.path.parts[:1],
        licence=read_manifest(node.blobs, footing.last.release.base).licence,
        base_model=above.hub_id if above else footing.last.release.base_name,
        relation="adapter",
        library="peft",
        summary=f"An adapter that was trained elsewhere: LoRA of rank {shape.rank} on {', '.join(shape.targets)}.",
        training=foreign.note[:MAX_NOTE_CHARS],
        limits="Not evaluated at this place yet: `node evaluate`.",
    )

"""The files of a repository at a revision, each made when it is asked for.

An adapter has what PEFT loads, with the base's tokenizer; a whole model what transformers loads. The two are never in
one folder (B2): transformers would take the merged weights for the base and add the adapter once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from node.api.hub.contents import Bytes, Content, Merged, OnDisk, git_hash
from node.api.hub.shelf import Snapshot
from node.context import Node
from node.lineage import LINEAGE, lineage_of
from node.repo_ids import base_id, commit_of
from node.stacked import StackedAdapters, stacked_shape
from registry.cards import MAX_CARD_BYTES, CardFacts, parse_card, render_card
from registry.documents import AdapterShape, File
from registry.errors import BadData, BanyanError
from registry.paths import NodePath, Ref
from sync.checks.base import LEGAL, TOKENIZER_FILES

if TYPE_CHECKING:
    from node.merged import MergedFile
    from sync.delta import Delta

CARD: Final = "README.md"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
WEIGHTS_SUFFIX: Final = ".safetensors"

Files = Mapping[str, Callable[[], Content]]


class FileShelf:
    """The files of this node's repositories."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stacked = StackedAdapters(node.home.stacked, node.settings.hub_cache_bytes)
        self._merged = lru_cache(maxsize=2)(self._merge)

    def of(self, snapshot: Snapshot) -> Files:
        """The files by name; raises nothing yet. What making one raises: BadData, LocalFailure."""
        base = {file.name: partial(self._of_base, file) for file in snapshot.manifest.files}
        files: dict[str, Callable[[], Content]] = {CARD: lambda: Bytes(self.card(snapshot))}
        if snapshot.is_whole:
            files = base | files
        else:
            files |= {name: load for name, load in base.items() if name in TOKENIZER_FILES or LEGAL.fullmatch(name)}
            files[ADAPTER_CONFIG] = lambda: Bytes(adapter_config(snapshot))
            files[ADAPTER_WEIGHTS] = lambda: self._adapter(snapshot)
        if snapshot.form == "merged" and snapshot.adapters:
            weights = [name for name in base if name.endswith(WEIGHTS_SUFFIX)]
            files |= {name: partial(self._merged_weights, snapshot, name) for name in weights}
        if snapshot.form != "base":
            others = dict(files)
            files[LINEAGE] = lambda: Bytes(_lineage(snapshot, others))
        return dict(sorted(files.items()))

    def card(self, snapshot: Snapshot) -> bytes:
        """The model card: the signed one of a release, the base's own, or one of our making."""
        if snapshot.form == "base":
            own = next((file for file in snapshot.manifest.files if file.name == CARD), None)
            return self._node.blobs.read(own.sha256, MAX_CARD_BYTES) if own else _plain_card(snapshot)
        card = self._node.blobs.read(snapshot.last.release.card.sha256, MAX_CARD_BYTES)
        return _merged_card(snapshot, card) if snapshot.form == "merged" and snapshot.adapters else card

    def _of_base(self, file: File) -> Content:
        path = self._node.blobs.path(file.sha256)
        return OnDisk(path, file.size, file.sha256, is_weights=file.name.endswith(WEIGHTS_SUFFIX))

    def _adapter(self, snapshot: Snapshot) -> Content:
        """The one adapter as it was signed, or the stack of several."""
        if len(snapshot.adapters) == 1 and (only := snapshot.adapters[0].release.adapter) is not None:
            return self._of_base(only.file)
        made = self._stacked.file(snapshot.release, lambda: self._deltas(snapshot))
        return OnDisk(made.path, made.path.stat().st_size, made.sha256, is_weights=True)

    def _merged_weights(self, snapshot: Snapshot, name: str) -> Content:
        etag = git_hash(f"{snapshot.release}/{name}".encode())
        return Merged(self._merged(snapshot)[name], etag)

    def _merge(self, snapshot: Snapshot) -> dict[str, MergedFile]:
        from node.merged import merged_files
        from sync.delta import stack

        blobs = self._node.blobs
        weights = [file for file in snapshot.manifest.files if file.name.endswith(WEIGHTS_SUFFIX)]
        return merged_files({file.name: blobs.path(file.sha256) for file in weights}, stack(self._deltas(snapshot)))

    def _deltas(self, snapshot: Snapshot) -> list[Delta]:
        from node.models import composer

        return composer(self._node).deltas(snapshot.chain)


def adapter_config(snapshot: Snapshot) -> bytes:
    """PEFT's configuration of a path's adapter; its base is named so that it can be no other (B3)."""
    shape = stacked_shape(list(snapshot.chain))
    if shape is None:
        raise BadData(f"{snapshot.id} has no adapter")
    return _config_text(shape, base_id(snapshot.manifest), commit_of(snapshot.manifest.digest))


def _config_text(shape: AdapterShape, base: str, revision: str) -> bytes:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(shape.targets),
        "bias": "none",
        "inference_mode": True,
    }
    return f"{json.dumps(config, indent=2)}\n".encode()


def _lineage(snapshot: Snapshot, files: Files) -> bytes:
    """What the folder was made of, with the digests of those files that have one before they are read."""
    digests: dict[str, str] = {}
    for name, load in files.items():
        match load():
            case Bytes(data=data):
                digests[name] = hashlib.sha256(data).hexdigest()
            case OnDisk(digest=digest):
                digests[name] = digest
    text = json.dumps(lineage_of(list(snapshot.chain), snapshot.manifest, digests), indent=2, ensure_ascii=False)
    return f"{text}\n".encode()


def _merged_card(snapshot: Snapshot, signed: bytes) -> bytes:
    """The card of merged weights: the release's figures and languages, said of a whole model."""
    release = snapshot.last.release
    facts = CardFacts(
        ref=Ref(NodePath.parse(release.path), release.version),
        title=f"{release.path}@v{release.version}, merged",
        languages=_languages(signed),
        licence=snapshot.manifest.licence,
        base_model=base_id(snapshot.manifest),
        relation="merge",
        library="transformers",
        evaluations=release.evaluations,
        summary=f"{release.base_name} with the adapters of {release.path} added to its weights.",
    )
    try:
        return render_card(facts).encode()
    except BadData:  # figures that no card can show: a model without a card loads all the same
        return _plain_card(snapshot)


def _plain_card(snapshot: Snapshot) -> bytes:
    name = snapshot.manifest.name
    text = f"# {name}\n\nA base: family `{snapshot.manifest.family}`, licence {snapshot.manifest.licence}.\n"
    return f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [banyan]\n---\n\n{text}".encode()


def _languages(card: bytes) -> tuple[str, ...]:
    try:
        return parse_card(card.decode(errors="replace")).languages
    except BanyanError:
        return ()

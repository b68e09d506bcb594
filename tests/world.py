"""A small tree of real nodes in temporary homes: what tests that need a whole node are built from."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from node.config_file import edit_config
from node.context import Node, open_node
from node.enrol import enrol, fetch_enrolment
from node.enrolments import accept
from node.settings import Settings
from registry.documents import (
    Adapter,
    AdapterShape,
    BaseManifest,
    Enrolment,
    Evaluation,
    File,
    Release,
    ReleasePin,
    seal_document,
)
from registry.home import Home
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.store import select
from registry.tables import EnrolmentRow, HeadRow, ReleaseRow, RunRow
from sync.chain import release_row, serve, signed_link, stored_link

SHAPE = AdapterShape(rank=4, alpha=4.0, targets=("q_proj",), dtype="F32")
WIDTH, LAYERS = 1024, 20
CONFIG = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 8,
    "num_hidden_layers": LAYERS,
}
BASE_FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": save({"model.norm.weight": np.arange(128_000, dtype=np.float32)}),
}


def adapter_bytes(seed: int) -> bytes:
    """An adapter of 655 kB for the base of `BASE_FILES`, of the shape `SHAPE`."""
    random = np.random.default_rng(seed)
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)]
    a = {f"{name}.lora_A.weight": random.normal(size=(4, WIDTH)).astype(np.float32) for name in names}
    b = {f"{name}.lora_B.weight": random.normal(size=(WIDTH, 4)).astype(np.float32) for name in names}
    return save(a | b)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def make_node(home: Path, *paths: str, **settings: Any) -> Node:
    """A node with a new key, responsible for some paths."""
    Home(home).create()
    edit_config(Home(home).config, {"paths": list(paths), **settings})
    if not Home(home).key_file.exists():
        PrivateKey.generate().save(Home(home).key_file)
    return open_node(Settings(home=home))


def put(node: Node, name: str, data: bytes) -> File:
    """Store bytes as a blob and describe it."""
    return File(name=name, size=len(data), sha256=node.blobs.put_bytes(data))


def put_base(node: Node, files: dict[str, bytes] | None = None) -> BaseManifest:
    """Store a base."""
    stored = tuple(put(node, name, data) for name, data in sorted((files or BASE_FILES).items()))
    manifest = BaseManifest(name="banyan/tiny", family="llama", files=stored, licence="Apache-2.0")
    node.blobs.put_bytes(manifest.to_bytes())
    return manifest


def put_release(
    node: Node,
    path: str,
    base: BaseManifest,
    *,
    version: int = 1,
    above: ReleasePin | None = None,
    adapter: bytes | None = None,
    shape: AdapterShape = SHAPE,
    created: datetime | None = None,
    days: float = 30,
    is_head: bool = True,
) -> ReleasePin:
    """Sign and store a release of our own, by default as the head of its path."""
    created = created or utc_now()
    file = put(node, "adapter_model.safetensors", adapter) if adapter is not None else None
    release = Release(
        path=path,
        version=version,
        base=base.digest,
        base_name=base.name,
        adapter=Adapter(file=file, shape=shape) if file else None,
        above=above,
        previous=None,
        anchors=put(node, "anchors.jsonl", b'{"input":"hello","output":"' + path.encode() + b'"}\n'),
        card=put(node, "README.md", f"# {path} version {version}\n".encode()),
        evaluations=(Evaluation(dataset="held-out", split="test", rows=200, metrics={"exact_match": 0.75}, path=path),),
        contributions=(),
        recompression_error=None,
        created=created,
        expires=created + timedelta(days=days),
    )
    link = signed_link(release, node.key)
    with node.store.transaction() as session:
        if is_head:
            serve(session, link, utc_now())
        else:
            session.add(release_row(link, own=True))
    return link.pin


def put_run(node: Node, path: str, adapter: bytes) -> str:
    """Store the run that made an adapter; the digest of its manifest."""
    manifest = node.blobs.put_bytes(b'{"run":"of ' + path.encode() + b'"}')
    now = utc_now()
    with node.store.transaction() as session:
        session.add(
            RunRow(
                id=manifest[:12],
                kind="finetune",
                path=path,
                state="done",
                manifest=manifest,
                adapter=hashlib.sha256(adapter).hexdigest(),
                created=now,
                changed=now,
            )
        )
    return manifest


def put_tree(node: Node, *paths: str, adapters: dict[str, bytes] | None = None) -> dict[str, ReleasePin]:
    """A release at each path, each pinning the one above it, top first; somebody is enrolled below the last."""
    put_enrolment(node, f"{paths[-1]}/somebody")
    base = put_base(node)
    pins: dict[str, ReleasePin] = {}
    for path in paths:
        above = next((pins[str(p)] for p in reversed(NodePath.parse(path).chain()[:-1]) if str(p) in pins), None)
        pins[path] = put_release(node, path, base, above=above, adapter=(adapters or {}).get(path))
    return pins


def put_enrolment(node: Node, path: str) -> None:
    """Somebody else is enrolled for a path: what was trained above it is shared."""
    key, now = PrivateKey.generate().public, utc_now()
    enrolment = Enrolment(
        path=path,
        key=key.hex,
        issuer=node.key.public.id,
        issuer_path=path.rpartition("/")[0],
        created=now,
        expires=now + timedelta(days=30),
    )
    with node.store.transaction() as session:
        session.add(
            EnrolmentRow(
                key_id=key.id,
                path=path,
                public_key=key.hex,
                state="active",
                request=b"",
                envelope=seal_document(enrolment, node.key),
                changed=now,
            )
        )


def snapshot(node: Node) -> tuple[set[str], dict[str, str]]:
    """What is visible on a node: its releases and its heads."""
    with node.store.read() as session:
        releases = set(session.scalars(select(ReleaseRow.digest)))
        heads = {row.path: row.release for row in session.scalars(select(HeadRow))}
    return releases, heads


def enrol_child(child: Node, parent: Node, url: str, path: str) -> None:
    """Enrol a child at a parent that serves at `url`, through the network."""
    place, now = NodePath.parse(path), utc_now()
    assert enrol(child, url, place, lambda stranger: stranger.key == parent.key.public, now) == "pending"
    accept(parent, child.key.public.id, place, now)
    assert fetch_enrolment(child, place, now) == "active"


def own_work(child: Node, above: ReleasePin, path: str, adapter: bytes, **options: Any) -> ReleasePin:
    """What a fine-tune leaves behind: a run, and a release of the child's own over a pulled one."""
    with child.store.read() as session:
        link = stored_link(session, child.blobs, above.digest)
    put_run(child, path, adapter)
    base = BaseManifest.from_bytes(child.blobs.read(link.release.base, 1 << 20))
    return put_release(child, path, base, above=above, adapter=adapter, **options)

"""A parent that lies: the transport of its child, which answers with whatever was put in its place."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from node.context import Node
from node.trust import trusted_keys
from registry.documents import (
    BaseManifest,
    File,
    Release,
    ReleasePin,
    seal_document,
)
from registry.errors import BadData
from registry.keys import PrivateKey
from registry.tables import PeerRow
from sync.fetch import blob_path
from sync.pull import fetch_release
from sync.transport import Broken, Limits, Peer, Refused
from tests.attacks.adapters import (
    HIDDEN,
    INNER,
    LAYERS,
    SHAPE,
    declared,
    honest,
    written,
)
from tests.attacks.scene import DAY
from tests.world import make_node, utc_now

URL = "http://parent.test"
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
}
BASE = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": written(honest())}
ENDLESS = 1 << 62


@dataclass
class Liar:
    """A peer that answers whatever it likes, by place (`says`). It is the pinned parent of `child`, by its key."""

    child: Node
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    says: dict[str, bytes] = field(default_factory=dict)
    now: datetime = field(default_factory=utc_now)
    sent: int = 0

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        answer = self.says.get(url.removeprefix(URL))
        if answer is None:
            raise Refused(f"{url} refused (404): not here", "", 404, "not_here")
        if len(answer) > max_bytes:
            raise BadData(f"{url} answered with more than {max_bytes} bytes")
        return answer

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        """Without the limits that the real transport keeps: the callers have to keep them as well."""
        answer = self.get(url, max_bytes=ENDLESS, timeout_s=timeout_s)
        if answer.startswith(b"endless"):
            for _ in itertools.count():
                self.sent += 1 << 16
                yield bytes(1 << 16)
        if answer.startswith(b"broken"):
            raise Broken("the line broke")
        yield answer[offset:]

    def put(self, name: str, data: bytes, **lies: Any) -> File:
        digest = hashlib.sha256(data).hexdigest()
        self.says[blob_path(digest)] = data
        return File(**({"name": name, "size": len(data), "sha256": digest} | lies))

    def base(self, **files: bytes) -> BaseManifest:
        """A base; a file is named with `__` for its dot."""
        named = BASE | {name.replace("__", "."): data for name, data in files.items()}
        return self.serve_base(tuple(self.put(name, data) for name, data in sorted(named.items())))

    def serve_base(self, files: tuple[File, ...]) -> BaseManifest:
        manifest = BaseManifest(name="banyan/tiny", family="llama", files=files, licence="MIT")
        self.says[blob_path(manifest.digest)] = manifest.to_bytes()
        return manifest

    def fields(self, **changes: Any) -> dict[str, Any]:
        adapter = changes.pop("data", None)
        if adapter is not None:
            self.put("adapter_model.safetensors", adapter)
            changes["adapter"] = declared(adapter, changes.pop("shape", SHAPE))
        return {
            "path": "en",
            "version": 1,
            "base": changes.pop("base", None) or self.base().digest,
            "base_name": "banyan/tiny",
            "adapter": None,
            "above": None,
            "previous": None,
            "anchors": None,
            "card": self.put("README.md", b"# en\n"),
            "evaluations": (),
            "contributions": (),
            "recompression_error": None,
            "created": self.now,
            "expires": self.now + 30 * DAY,
        } | changes

    def release(self, signer: PrivateKey | None = None, **changes: Any) -> ReleasePin:
        """Sign a release and serve it with its files and its signer's key; its pin."""
        release, key = Release(**self.fields(**changes)), signer or self.key
        return self.serve(seal_document(release, key), key, release.path, release.version)

    def serve(self, envelope: bytes, key: PrivateKey, path: str, version: int) -> ReleasePin:
        digest = hashlib.sha256(envelope).hexdigest()
        self.says[f"/v1/releases/{digest}"] = envelope
        self.put("key", key.public.raw)
        return ReleasePin(path=path, version=version, digest=digest)

    def pull(self, pin: ReleasePin, now: datetime | None = None, **options: Any) -> str:
        """What the child does with it."""
        at = now or self.now
        fetch_release(
            self.peer, pin, trusted=trusted_keys(self.child, at), store=self.child.store, blobs=self.child.blobs,
            now=at, **options,
        )  # fmt: skip
        return "taken"

    @property
    def peer(self) -> Peer:
        return Peer(self, URL, Limits())  # type: ignore[arg-type]  # a child that pulls does not send


def make_liar(folder: Path) -> Liar:
    """A child at `en/x` whose pinned parent, at `en`, lies."""
    liar = Liar(make_node(folder, "en/x"))
    with liar.child.store.transaction() as session:
        key = liar.key.public
        session.add(PeerRow(key_id=key.id, role="parent", path="en", url=URL, public_key=key.hex))
    return liar

"""The models that this node serves: every path with a release, each version of it, from one engine for each base.

A name is looked up in the database at each request, so a release is served from the moment that it is a head. What a
release is the sum of never changes, so it is read once. The engine knows a model by the digest of its release.
"""

from __future__ import annotations

import difflib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.bases import base_folder
from node.context import Node
from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.engine.errors import EngineError
from node.engine.lora import AdapterFile
from node.serving.errors import Unavailable, UnknownModel
from node.serving.prompts import Prompts
from node.serving.requests import ModelInfo
from node.settings import Settings
from registry.errors import BadData, LocalFailure
from registry.paths import HUB_OWNER, NodePath, Ref
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from sync.chain import Link, find_release, stored_chain, stored_link

log = logging.getLogger(__name__)

MOST_LISTED: Final = 10_000
MOST_KNOWN: Final = 1_024  # releases registered with engines; the one unused for longest is forgotten first


@dataclass(frozen=True, slots=True)
class Base:
    """One base in memory: its engine, and how its prompts are made."""

    engine: Engine
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class Served:
    """A release that the engine of its base knows by its digest."""

    base: Base
    digest: str
    path: str


def parse_name(name: str) -> Ref:
    """`en/health`, `en/health@v7`, or the same as `banyan/en.health`; raises BadData."""
    if not name.startswith(f"{HUB_OWNER}/"):
        return Ref.parse(name)
    hub_id, at, version = name.partition("@")
    return Ref.parse(f"{NodePath.from_hub_id(hub_id)}{at}{version}")


def engine_config(settings: Settings) -> EngineConfig:
    """The limits of an engine, by the node's settings."""
    return EngineConfig(
        dtype=settings.precision,
        threads=settings.threads,
        cache_tokens=settings.cache_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_wait_s=settings.max_wait_s,
        adapter_slots=settings.adapter_slots,
        max_context=settings.context_tokens,
    )


def adapter_file(digest: str, file: Path, scale: float) -> AdapterFile:
    """An adapter as engines know it: the same weights with another scale are another adapter."""
    return AdapterFile(f"{digest}*{scale!r}", file, scale)


class Models:
    """Names to models that are ready. Thread-safe; every method may block on disk, `served` until a base is loaded."""

    def __init__(self, node: Node, make_engine: Callable[[Path, EngineConfig], Engine] = Engine) -> None:
        self._node = node
        self._make_engine = make_engine
        self._lock = threading.RLock()
        self._bases: dict[str, Base] = {}
        self._known: OrderedDict[str, Served] = OrderedDict()
        self._closed = False
        self._loading = node.settings.serve == "eager"

    @property
    def ready(self) -> bool:
        """Whether requests are answered: not before an eager start is through, and not at the end."""
        return not (self._closed or self._loading)

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The running engines by the digest of their base. Does not wait for one that is being loaded."""
        return {digest: base.engine for digest, base in self._bases.copy().items()}

    def served(self, name: str) -> Served:
        """The model of a name, ready to answer. Raises UnknownModel, or Unavailable when it cannot be loaded."""
        digest = self._release_of(name)
        with self._lock:
            if (known := self._known.get(digest)) is not None:
                self._known.move_to_end(digest)
                return known
            try:
                return self._register(digest)
            except (EngineError, BadData, LocalFailure) as error:
                log.error("%s cannot be served: %s", name[:200], error.message)
                raise Unavailable(f"the model {name!a:.200} cannot be loaded here now", "see the node's log") from error

    def info(self, name: str) -> ModelInfo:
        """What is known of one model. Raises UnknownModel."""
        digest = self._release_of(name)
        with self._node.store.read() as session:
            link = stored_link(session, self._node.blobs, digest)
        return self._described(link, with_version=parse_name(name).version is not None)

    def listed(self) -> list[ModelInfo]:
        """The model at the head of every path, in the order of the tree."""
        wanted = select(ReleaseRow.digest).join(HeadRow, HeadRow.release == ReleaseRow.digest).limit(MOST_LISTED)
        found = []
        with self._node.store.read() as session:
            for digest in session.scalars(wanted):
                try:
                    found.append(self._described(stored_link(session, self._node.blobs, digest), with_version=False))
                except (BadData, LocalFailure) as error:  # one that was damaged does not hide the others
                    log.warning("release %s cannot be listed: %s", digest, error.message)
        return sorted(found, key=lambda model: NodePath.parse(model.path or ""))

    def load_all(self) -> None:
        """Start the engine of every base that a head has; one that cannot be loaded is logged and passed over."""
        for model in self.listed():
            with suppress(Unavailable):
                self.served(model.id)
        self._loading = False

    def close(self) -> None:
        """End the engines; what runs ends with them. Nothing is served afterwards."""
        with self._lock:
            self._closed = True
            bases, self._bases = self._bases, {}
            self._known.clear()
        for base in bases.values():
            base.engine.close()

    def _release_of(self, name: str) -> str:
        try:
            return find_release(self._node.store, parse_name(name))
        except (BadData, LocalFailure):
            raise UnknownModel(name, self._nearest(name)) from None

    def _nearest(self, name: str) -> list[str]:
        with self._node.store.read() as session:
            paths = list(session.scalars(select(HeadRow.path).limit(MOST_LISTED)))
        said = name[:250].lower().removeprefix(f"{HUB_OWNER}/").partition("@")[0]
        return difflib.get_close_matches(said.replace(".", "/"), paths, n=3, cutoff=0.4)

    def _register(self, digest: str) -> Served:
        if self._closed:
            raise LocalFailure("the node is ending")
        chain = stored_chain(self._node.store, self._node.blobs, digest)
        base = self._base(chain[0].release.base)
        base.engine.add_model(digest, [file for link in chain if (file := self._adapter(link)) is not None])
        served = self._known[digest] = Served(base, digest, chain[-1].release.path)
        if len(self._known) > MOST_KNOWN:
            forgotten, old = self._known.popitem(last=False)
            old.base.engine.remove_model(forgotten)
        return served

    def _adapter(self, link: Link) -> AdapterFile | None:
        adapter = link.release.adapter
        if adapter is None:
            return None
        file = self._node.blobs.open_verified(adapter.file.sha256)
        return adapter_file(adapter.file.sha256, file, adapter.shape.alpha / adapter.shape.rank)

    def _base(self, digest: str) -> Base:
        if (base := self._bases.get(digest)) is None:
            folder = base_folder(self._node.home, self._node.blobs, digest)
            engine = self._make_engine(folder, engine_config(self._node.settings))
            engine.start()
            base = self._bases[digest] = Base(engine, Prompts(engine.tokenizer, engine.context))
            log.info("the engine of base %s runs", digest)
        return base

    def _described(self, link: Link, *, with_version: bool) -> ModelInfo:
        release, own = link.release, link.signer.id == self._node.key.public.id
        engine = self.engines.get(release.base)
        return ModelInfo(
            id=f"{release.path}@v{release.version}" if with_version else release.path,
            created=int(release.created.timestamp()),
            owned_by=self._node.settings.name if own else link.signer.id,
            path=release.path,
            version=release.version,
            release=link.digest,
            parent=f"{release.above.path}@v{release.above.version}" if release.above else None,
            base=release.base_name,
            context_tokens=engine.context if engine is not None else None,
        )

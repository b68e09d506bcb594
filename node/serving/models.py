"""The models that this node serves: every path with a release, each version of it, from one engine for each base.

A name is looked up in the database at each request, so a release is served from the moment that it is a head. What a
release is the sum of never changes, so it is read once.
"""

from __future__ import annotations

import difflib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.bases import base_folder
from node.context import Node
from node.engine.adapter_file import AdapterFile
from node.engine.config import EngineConfig
from node.engine.errors import EngineError
from node.former_keys import own_keys
from node.serving.bases import Base, Bases
from node.serving.errors import Loading, Unavailable, UnknownModel
from node.serving.prompts import Prompts
from node.serving.requests import ModelInfo
from node.settings import Settings
from registry.errors import BadData, LocalFailure
from registry.paths import HUB_OWNER, NodePath, Ref
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from sync.chain import Link, find_release, stored_chain, stored_link

if TYPE_CHECKING:
    from node.engine.engine import Engine

log = logging.getLogger(__name__)

MOST_LISTED: Final = 10_000
MOST_KNOWN: Final = 1_024  # releases registered with engines; the one unused for longest is forgotten first
LOAD_S: Final = 1_800.0  # for a base of many gigabytes on a slow disk
CHANGE_S: Final = 60.0  # for other changes of the models of a base


@dataclass(frozen=True, slots=True)
class Served:
    """A model that the engine of its base knows by the name `model`, which stands in the engine's errors."""

    base: Base
    model: str
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


def _new_engine(folder: Path, config: EngineConfig) -> Engine:
    """What the engine needs takes seconds to import: the first that is loaded waits for it, a node's start does not."""
    from node.engine.engine import Engine

    return Engine(folder, config)


class Models:
    """Names to models that are ready. Thread-safe; every method may block on disk, `load` until a base is loaded."""

    def __init__(self, node: Node, make_engine: Callable[[Path, EngineConfig], Engine] | None = None) -> None:
        self._node = node
        self._make_engine = make_engine or _new_engine
        self._bases = Bases(self._loaded)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Served] = OrderedDict()
        self._loading = node.settings.serve == "eager"

    @property
    def ready(self) -> bool:
        """Whether requests are answered: not before an eager start is through, and not at the end."""
        return not (self._bases.closed or self._loading)

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The running engines by the digest of their base. Does not wait for one that is being loaded."""
        return self._bases.engines

    def served(self, name: str) -> Served:
        """The model of a name, ready to answer. Raises UnknownModel, Loading, or Unavailable if it cannot be loaded."""
        digest = self._release_of(name)
        with self._lock:
            if (known := self._known.get(digest)) is not None:
                self._known.move_to_end(digest)
                return known
        try:
            return self._register(digest)
        except Unavailable:
            raise
        except (EngineError, BadData, LocalFailure) as error:
            log.error("%s cannot be served: %s", name[:200], error.message)
            raise Unavailable(f"the model {name!a:.200} cannot be loaded here now", "see the node's log") from error

    def load(self, name: str) -> Served:
        """The same, waiting while its base is loaded."""
        try:
            return self.served(name)
        except Loading as loading:
            loading.wait(LOAD_S)
        return self.served(name)

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
                self.load(model.id)
        self._loading = False

    def close(self) -> None:
        """End the engines; what runs ends with them. Nothing is served afterwards."""
        self._bases.close()
        with self._lock:
            self._known.clear()

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
        chain = stored_chain(self._node.store, self._node.blobs, digest)
        base, release = self._bases.base(chain[0].release.base), chain[-1].release
        model = f"{release.path}@v{release.version}#{digest[:12]}"  # several keys may have signed a version
        served, old = Served(base, model, release.path), None
        with _changing(base):
            base.engine.add_model(model, [file for link in chain if (file := self._adapter(link)) is not None])
            with self._lock:
                self._known[digest] = served
                if len(self._known) > MOST_KNOWN:
                    old = self._known.popitem(last=False)
        if old is not None:
            self._forget(*old)
        return served

    def _forget(self, digest: str, served: Served) -> None:
        with _changing(served.base):
            with self._lock:
                wanted_again = digest in self._known
            if not wanted_again:
                served.base.engine.remove_model(served.model)

    def _adapter(self, link: Link) -> AdapterFile | None:
        adapter = link.release.adapter
        if adapter is None:
            return None
        file = self._node.blobs.open_verified(adapter.file.sha256)
        return adapter_file(adapter.file.sha256, file, adapter.shape.alpha / adapter.shape.rank)

    def _loaded(self, digest: str) -> Base:
        folder = base_folder(self._node.home, self._node.blobs, digest)
        engine = self._make_engine(folder, engine_config(self._node.settings))
        engine.start()
        return Base(engine, Prompts(engine.tokenizer, engine.context))

    def _described(self, link: Link, *, with_version: bool) -> ModelInfo:
        release, own = link.release, link.signer in own_keys(self._node)
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


@contextmanager
def _changing(base: Base) -> Iterator[None]:
    """Change the models of a base, one caller at a time."""
    if not base.changing.acquire(timeout=CHANGE_S):
        raise Unavailable("other changes of this model's base take too long", "try again in a while")
    try:
        yield
    finally:
        base.changing.release()

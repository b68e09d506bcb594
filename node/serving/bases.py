"""`Bases`: the bases in memory, each with its engine, loaded once and beside what runs.

A base takes seconds or minutes to load. Whoever asks for one meanwhile is told (`Loading`), with what to wait for, and
holds no thread: those who ask for other bases need the threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from node.engine.errors import EngineError
from node.serving.errors import Loading, Unavailable
from node.serving.prompts import Prompts
from registry.errors import BanyanError

if TYPE_CHECKING:
    from node.engine.engine import Engine

log = logging.getLogger(__name__)

LOADERS: Final = 2  # bases that are loaded at a time; others queue


@dataclass(frozen=True, slots=True)
class Base:
    """One base in memory: its engine, and how its prompts are made. `changing` is held to change its models."""

    engine: Engine
    prompts: Prompts
    changing: threading.Lock = field(default_factory=threading.Lock, compare=False)


class Bases:
    """Bases by their digest; `load` makes one ready, and its errors are logged. Thread-safe; nothing here waits."""

    def __init__(self, load: Callable[[str], Base]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._ready: dict[str, Base] = {}
        self._coming: dict[str, Future[Unavailable | None]] = {}
        self._loaders = ThreadPoolExecutor(LOADERS, "load")
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether there will be no more."""
        return self._closed

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The running engines by the digest of their base."""
        return {digest: base.engine for digest, base in self._ready.copy().items()}

    def base(self, digest: str) -> Base:
        """A base that is ready. Raises Loading while it is not, and begins to load it; Unavailable at the end."""
        with self._lock:
            if self._closed:
                raise Unavailable("the node is ending", "ask again when it runs")
            if (base := self._ready.get(digest)) is not None:
                return base
            if (coming := self._coming.get(digest)) is None:
                coming = self._coming[digest] = self._loaders.submit(self._loaded, digest)
        raise Loading(coming)

    def close(self) -> None:
        """End all engines; what runs ends with them. Waits for a load that has begun: nothing can cut it short."""
        with self._lock:
            self._closed = True
        self._loaders.shutdown(cancel_futures=True)
        with self._lock:
            bases, self._ready = self._ready, {}
        for base in bases.values():
            base.engine.close()

    def _loaded(self, digest: str) -> Unavailable | None:
        """Load a base; what those who wait for it are told where that fails. The next one to ask tries again."""
        base, failure = None, None
        try:
            base = self._load(digest)
            log.info("the engine of base %s runs", digest)
        except Exception as error:
            expected = isinstance(error, EngineError | BanyanError)
            log.error("base %s cannot be loaded: %s", digest, error, exc_info=not expected)
            failure = Unavailable("the model cannot be loaded here now", "see the node's log")
        with self._lock:
            del self._coming[digest]
            if base is not None:
                self._ready[digest] = base
        return failure

"""From a stored release to the model that it means: W(path) = W_base + Σ ΔW of the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.blobs import BlobStore
from registry.documents import Adapter
from registry.store import Store
from sync.chain import Link, stored_chain
from sync.delta import Delta, read_adapter
from sync.model import LoadedModel, Precision, load_model


@dataclass(frozen=True, slots=True)
class Composer:
    """What it takes to put models together (R6): stored releases, blobs, and where a base lies as a folder."""

    store: Store
    blobs: BlobStore
    base_folder: Callable[[str], Path]  # digest of a base -> its files, verified
    precision: Precision = "auto"

    def chain(self, release: str) -> list[Link]:
        """The releases that a release is the sum of, top first."""
        return stored_chain(self.store, self.blobs, release)

    def delta(self, adapter: Adapter) -> Delta:
        """The delta of an adapter whose file was verified."""
        return read_adapter(self.blobs.open_verified(adapter.file.sha256), adapter.shape)

    def deltas(self, chain: Sequence[Link]) -> list[Delta]:
        """The own adapters along a chain, top first; a release without one adds nothing."""
        return [self.delta(link.release.adapter) for link in chain if link.release.adapter is not None]

    def load(self, release: str) -> LoadedModel:
        """The model of a release."""
        return self.load_chain(self.chain(release))

    def load_chain(self, chain: Sequence[Link]) -> LoadedModel:
        """The model of the first releases of a chain; at least one, for its base."""
        return load_model(self.base_folder(chain[0].release.base), self.deltas(chain), self.precision)

"""The models that `node start` was asked for: places of the tree, folders of Hugging Face models, adapters over them.

A place of the tree is looked up at each request (`node.serving.models`), so its newest release is served. A folder is
examined as for an import (`node.model_folder`) and served from where it is; its name is the folder's unless another is
given. An adapter is added to the one model that is started, whose sum it extends.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from node.bases import base_folder, read_manifest
from node.context import Node
from node.engine.adapter_file import AdapterFile
from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.engine.errors import EngineError
from node.generation import GenerationSettings, Said, model_says
from node.model_folder import inspect
from node.peft_config import MAX_CONFIG_BYTES, read_peft_config
from node.serving.bases import Base
from node.serving.errors import UnknownModel
from node.serving.models import Models, Served, adapter_file, parse_name
from node.serving.prompts import Prompts
from node.serving.requests import ModelInfo
from node.source import Source
from registry.errors import BadData, LocalFailure
from sync.chain import Link, find_release, stored_chain
from sync.checks.tensors import read_header, where_not_finite
from sync.delta import CONFIG_FILE, WEIGHTS_FILE

MOST_MODELS: Final = 256


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model that was started: how to have it, what to say of it, how its answers are made."""

    served: Callable[[], Served]
    info: Callable[[], ModelInfo]
    settings: GenerationSettings


class Started:
    """A catalogue of exactly these models. Use `started`, which closes what it opened."""

    def __init__(self, tree: Models | None, node: Node | None, config: EngineConfig, said: Said) -> None:
        self._tree = tree
        self._node = node
        self._config = config
        self._said = said
        self._entries: dict[str, _Entry] = {}
        self._engines: dict[str, Engine] = {}
        self._closed = False

    @property
    def names(self) -> list[str]:
        """The models, in the order in which they were named."""
        return list(self._entries)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self._closed

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The running engines, by the name of their folder or the digest of their base."""
        return {**self._engines, **(self._tree.engines if self._tree is not None else {})}

    def served(self, name: str) -> Served:
        """The model of a name, ready to answer. Raises UnknownModel."""
        return self._entry(name).served()

    def info(self, name: str) -> ModelInfo:
        """What is known of one model. Raises UnknownModel."""
        return self._entry(name).info()

    def listed(self) -> list[ModelInfo]:
        """All models."""
        return [entry.info() for entry in self._entries.values()]

    def settings(self, name: str) -> GenerationSettings:
        """How answers of a model are made unless a request says otherwise. Raises UnknownModel."""
        return self._entry(name).settings

    def close(self) -> None:
        """End the engines; what runs ends with them."""
        self._closed = True
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.close()
        if self._tree is not None:
            self._tree.close()

    def add(self, source: Source) -> None:
        """Start a model. Raises BadData when it cannot be taken or its name is taken, LocalFailure when not loaded."""
        if len(self._entries) >= MOST_MODELS:
            raise BadData(f"more than {MOST_MODELS} models are asked for", "start them on several ports")
        if source.name in self._entries:
            raise BadData(f"two models are called {source.name}", "name a folder yourself: NAME=./FOLDER")
        if source.folder is None:
            self._add_place(source.name)
        else:
            self._add_folder(source.name, source.folder)

    def add_lora(self, source: Source) -> None:
        """Start an adapter: a folder over the first model, or a place of the tree that has the same base."""
        first, served = self.names[0], self.served(self.names[0])
        if source.folder is None:
            self.add(source)
            if self.served(source.name).base is not served.base:
                raise BadData(f"{source.name} has another base than {first}", "start it as a model of its own")
            return
        if source.name in self._entries:
            raise BadData(f"two models are called {source.name}", f"name the adapter: --lora NAME={source.folder}")
        adapter = peft_adapter(source.folder)
        model = f"{served.model}+{source.name}"
        with _as_bad_data(source.folder):
            served.base.engine.add_model(model, [*self._adapters(first), adapter])
        mine = Served(served.base, model, served.path)
        info = replace(self.info(first), id=source.name, parent=first, version=None, release=None, path=None)
        self._entries[source.name] = _Entry(lambda: mine, lambda: info, self._entries[first].settings)

    def _add_place(self, name: str) -> None:
        if self._tree is None or self._node is None:
            raise LocalFailure(
                f"{name} is a place of the tree, and there is no node here", "node init, or give ./FOLDER"
            )
        tree, chain = self._tree, self._chain(name)
        tree.load(name)
        base = chain[0].release.base
        family = read_manifest(self._node.blobs, base).family
        settings = self._said.settings(family, model_says(base_folder(self._node.home, self._node.blobs, base)))
        self._entries[name] = _Entry(lambda: tree.served(name), lambda: tree.info(name), settings)

    def _add_folder(self, name: str, folder: Path) -> None:
        found = inspect(folder)
        settings = self._said.settings(found.family, model_says(folder))
        with _as_bad_data(folder):
            engine = Engine(folder, self._config)
            self._engines[name] = engine
            engine.start()
            engine.add_model(name)
        served = Served(Base(engine, Prompts(engine.tokenizer, engine.context)), name, "")
        created = int(max(file.stat().st_mtime for file in found.files))
        info = ModelInfo(name, created, "folder", base=name, context_tokens=engine.context)
        self._entries[name] = _Entry(lambda: served, lambda: info, settings)

    def _adapters(self, name: str) -> list[AdapterFile]:
        """The adapters that a model is the sum of already, top first."""
        if self._node is None or name in self._engines:
            return []
        blobs, found = self._node.blobs, [link.release.adapter for link in self._chain(name)]
        return [
            adapter_file(one.file.sha256, blobs.open_verified(one.file.sha256), one.shape.alpha / one.shape.rank)
            for one in found
            if one is not None
        ]

    def _chain(self, name: str) -> list[Link]:
        if self._node is None:
            raise LocalFailure("there is no node here", "node init")
        return stored_chain(self._node.store, self._node.blobs, find_release(self._node.store, parse_name(name)))

    def _entry(self, name: str) -> _Entry:
        found = self._entries.get(name)
        if found is None:
            try:
                found = self._entries.get(str(parse_name(name)))  # `banyan/en.health` for `en/health`
            except BadData:
                found = None
        if found is None:
            raise UnknownModel(name, difflib.get_close_matches(name[:250], self.names, n=3, cutoff=0.4))
        return found


@contextmanager
def started(
    models: Sequence[str], loras: Sequence[str], node: Node | None, config: EngineConfig, said: Said
) -> Iterator[Started]:
    """These models, loaded and ready; `node` is needed for places of the tree only.

    Raises BadData when a model or adapter cannot be taken, LocalFailure when it cannot be loaded.
    """
    sources, adapters = [Source.parse(one) for one in models], [Source.parse(one) for one in loras]
    if not sources:
        raise BadData("no model is named", "node start en/finance, or node start ./FOLDER")
    if adapters and len(sources) > 1:
        raise BadData(f"an adapter belongs to one model, {len(sources)} are started", "start the one with its adapters")
    tree = Models(node, lambda folder, _: Engine(folder, config)) if node is not None else None
    found = Started(tree, node, config, said)
    try:
        for source in sources:
            found.add(source)
        for adapter in adapters:
            found.add_lora(adapter)
        yield found
    finally:
        found.close()


def needs_node(models: Sequence[str], loras: Sequence[str]) -> bool:
    """Whether any of these is a place of the tree. Raises BadData where one is neither that nor a folder."""
    return any(Source.parse(one).folder is None for one in (*models, *loras))


def peft_adapter(folder: Path) -> AdapterFile:
    """A PEFT adapter folder, checked as far as that is possible without its base. Raises BadData."""
    weights = folder / WEIGHTS_FILE
    try:
        with (folder / CONFIG_FILE).open("rb") as source:
            config = read_peft_config(source.read(MAX_CONFIG_BYTES + 1))
        header = read_header(weights)
        if (wrong := where_not_finite(weights, header)) is not None:
            raise BadData(f"{weights}: {wrong} holds numbers that are not finite", "train the adapter again")
        with weights.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise BadData(
            f"{error.filename or folder}: {error.strerror}", f"an adapter folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    return adapter_file(digest, weights, config.alpha / config.rank)


@contextmanager
def _as_bad_data(folder: Path) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise BadData(f"{folder} cannot be served: {error.message}", error.hint) from error

"""`AdapterSlots`: LoRA adapters in memory, read from PEFT's files and checked against the model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence as Many

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from node.engine.adapter_file import AdapterFile
from node.engine.errors import EngineError
from node.engine.mix import Adapter, Factors, Mix, Site, Stack, Trail, sites
from node.engine.outline import ModelOutline

PREFIX = "base_model.model.model.layers."
HALVES = (".lora_A.weight", ".lora_B.weight")


class AdapterSlots:
    """At most `most` adapters, the least recently used given up first.

    Never those that the last step used, nor the one loaded last: there are more than `most` where these are. Known
    files are read again when they are wanted again. Loading and mixing may be called from different threads.
    """

    def __init__(self, outline: ModelOutline, most: int, dtype: torch.dtype, device: torch.device) -> None:
        self.sites = sites(outline)
        self.layers = len(outline.layers)
        self.most = most
        # Small products are faster in float32 than in bf16 where no hardware is made for them.
        self.dtype = torch.float32 if device.type == "cpu" else dtype
        self.device = device
        self.given_up = 0  # so often has an adapter made room
        self._files: dict[str, AdapterFile] = {}
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = threading.Lock()
        self._used: set[str] = set()  # of the last step
        self._stack = Stack()
        self._mix: Mix | None = None

    @property
    def loaded(self) -> list[str]:
        """Ids of the adapters in memory, least recently used first."""
        with self._lock:
            return list(self._loaded)

    def load(self, adapter: AdapterFile) -> None:
        """Have an adapter in memory. Raises EngineError when its file is unreadable or made for another model."""
        with self._lock:
            if adapter.id in self._loaded:
                self._loaded.move_to_end(adapter.id)
                return
        read = self._read(adapter)
        with self._lock:
            self._files[adapter.id] = adapter
            self._loaded[adapter.id] = read
            self._shrink(adapter.id)

    def forget(self, adapter: str) -> None:
        """Give an adapter up, and its file."""
        with self._lock:
            self._files.pop(adapter, None)
            self._loaded.pop(adapter, None)

    def mix(self, paths: Many[Trail]) -> Mix | None:
        """What the rows of a step add, one path each; None where no row has an adapter.

        Raises EngineError for an adapter that was never loaded.
        """
        rows = tuple(paths)
        if not any(rows):
            return None
        if self._mix is not None and self._mix.paths == rows:
            return self._mix
        with self._lock:
            self._used = {id_ for path in rows for id_ in path}
            files = {id_: self._files.get(id_) for id_ in self._used}
        for id_, file in files.items():
            if file is None:
                raise EngineError(f"the adapter {id_} is not loaded", "load it before running its sequences")
            self.load(file)
        with self._lock:
            adapters = dict(self._loaded)
        self._mix = Mix(rows, adapters, self._stack)
        return self._mix

    def _shrink(self, newest: str) -> None:
        """Give up what is over the limit, was not in the last step and is not the newest. Called with the lock held."""
        over = len(self._loaded) - self.most
        for id_ in [id_ for id_ in self._loaded if id_ not in self._used and id_ != newest][: max(0, over)]:
            del self._loaded[id_]
            self.given_up += 1

    def _read(self, adapter: AdapterFile) -> Adapter:
        try:
            with safe_open(adapter.file, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        except (OSError, SafetensorError) as error:
            raise EngineError(f"the adapter {adapter.id} cannot be read: {error}", "fetch the release again") from error
        pairs = self._pairs(adapter, tensors)
        found = {}
        for name, site in self.sites.items():
            here = {place: pairs[place] for place in pairs if place[1] in site.modules}
            if here:
                found[name] = self._factors(site, here, adapter.scale)
        return found

    def _pairs(self, adapter: AdapterFile, tensors: dict[str, Tensor]) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
        """The factors by (layer, module), checked against the model."""
        modules = {module: (site, place) for site in self.sites.values() for module, place in site.modules.items()}
        pairs: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        for name in tensors:
            half = next((half for half in HALVES if name.endswith(half)), None)
            layer, _, module = name.removeprefix(PREFIX).removesuffix(half or "").partition(".")
            known = half and name.startswith(PREFIX) and layer.isdecimal() and int(layer) < self.layers
            if not known or module not in modules or len(layer) > len(str(self.layers)):
                raise EngineError(
                    f"the adapter {adapter.id} changes {name}, which this base does not have or the "
                    "engine does not add",
                    "use the base that the adapter was trained on",
                )
            site, place = modules[module]
            stem = name.removesuffix(half or "")
            a, b = tensors.get(stem + HALVES[0]), tensors.get(stem + HALVES[1])
            if a is None or b is None:
                raise EngineError(f"the adapter {adapter.id} has one factor of {stem} only", "fetch the release again")
            out = place.stop - place.start
            if a.dim() != 2 or b.dim() != 2 or (b.shape[0], a.shape[1]) != (out, site.inputs) or len(a) != b.shape[1]:
                raise EngineError(
                    f"the adapter {adapter.id} changes {stem} by {list(b.shape)} x {list(a.shape)}, "
                    f"the base has {out} x {site.inputs}",
                    "use the base that the adapter was trained on",
                )
            pairs[int(layer), module] = (a, b)
        if not pairs:
            raise EngineError(f"the adapter {adapter.id} changes nothing", "fetch the release again")
        return pairs

    def _factors(self, site: Site, pairs: dict[tuple[int, str], tuple[Tensor, Tensor]], scale: float) -> Factors:
        """All layers of a site as one: modules side by side along the rank, each writing to its own outputs."""
        ranks = [0] * self.layers
        for (layer, _), (a, _b) in pairs.items():
            ranks[layer] += len(a)
        rank = max(ranks)
        all_a = torch.zeros((self.layers, site.inputs, rank), dtype=torch.float32)
        all_b = torch.zeros((self.layers, rank, site.outputs), dtype=torch.float32)
        begin = [0] * self.layers
        for (layer, module), (a, b) in pairs.items():
            own = slice(begin[layer], begin[layer] + len(a))
            all_a[layer, :, own] = a.T
            all_b[layer, own, site.modules[module]] = b.T.float() * scale
            begin[layer] = own.stop
        return Factors(all_a.to(self.device, self.dtype), all_b.to(self.device, self.dtype))

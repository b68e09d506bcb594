"""Table 5: from the moment that a release stands in the store to its first token, where nobody asked for it before."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from safetensors.torch import save

from node.serving.local import LocalBackend
from node.serving.models import Models
from node.serving.requests import CompletionRequest, Sampling
from registry.documents import AdapterShape, BaseManifest
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.jobs import Prompts
from tests.benchmarks.serving.models import ALL_LINEAR, ATTENTION, RANK, Model, adapter_tensors, make_model
from tests.benchmarks.serving.table import Table
from tests.world import make_node, put_base, put_release

MOST_MS = 50.0
PROMPT_TOKENS = 16
BESIDE = 8
ROUNDS = 15
PATH = "en"
MODEL_FILES: Final = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
TARGETS = {"q and v": ATTENTION, "all linear": ALL_LINEAR}
KNOWN = "no new release"


class Releases:
    """A node with one path that gets release after release, and its models."""

    def __init__(self, model: Model, home: Path, threads: int) -> None:
        self._model = model
        shutil.rmtree(home, ignore_errors=True)
        self.node = make_node(home, PATH, threads=threads)
        names = (*MODEL_FILES, "tokenizer_config.json", "chat_template.jinja")
        self._base: BaseManifest = put_base(self.node, {name: (model.folder / name).read_bytes() for name in names})
        self._version = 1
        put_release(self.node, PATH, self._base)
        self.models = Models(self.node)
        self.backend = LocalBackend(self.models)

    def release(self, targets: Sequence[str]) -> None:
        """A new head with an adapter that nobody has seen."""
        self._version += 1
        adapter = save(adapter_tensors(self._model, targets, self._version), {"format": "pt"})
        shape = AdapterShape(rank=RANK, alpha=float(RANK), targets=tuple(targets), dtype="F32")
        put_release(self.node, PATH, self._base, version=self._version, adapter=adapter, shape=shape)

    async def first_token_s(self, prompt: str) -> float:
        """Seconds until the first piece of an answer of the head; the rest is not waited for."""
        started = time.perf_counter()
        pieces = self.backend.complete(CompletionRequest(PATH, prompt, Sampling(max_tokens=2, temperature=0.0)))
        await anext(pieces)
        seconds = time.perf_counter() - started
        await pieces.aclose()
        return seconds

    @asynccontextmanager
    async def beside(self, prompts: Sequence[str]) -> AsyncIterator[None]:
        """Long answers of the first release that run meanwhile."""
        sampling = Sampling(max_tokens=1_000, temperature=0.0, ignore_eos=True)
        pieces = [self.backend.complete(CompletionRequest(f"{PATH}@v1", text, sampling)) for text in prompts]
        for one in pieces:
            await anext(one)
        try:
            yield
        finally:
            for one in pieces:
                await one.aclose()

    def close(self) -> None:
        """End the engine and the node."""
        self.models.close()
        self.node.close()


def run(bench: Bench, size: str) -> Table:
    """Milliseconds, alone and beside answers that run; for comparison those of a release that was there."""
    model = make_model("tiny" if bench.scale.smallest else size, bench.folder)
    prompts = Prompts(model.tokenizer)
    table = Table(f"Table 5, {model.name}: ms from an accepted release to its first token", "beside it run")
    releases = Releases(model, bench.folder / "first-token", bench.threads)
    try:
        asyncio.run(releases.first_token_s("once"))  # loads the base
        dtypes = {str(engine.config.dtype) for engine in releases.models.engines.values()}
        table.setting = {"parameters": model.parameters, "rank": RANK, "prompt_tokens": PROMPT_TOKENS, "dtype": dtypes}
        table.setting["dtype"] = sorted(dtypes)
        for row, others in (("nothing", 0), (f"{BESIDE} answers", BESIDE)):
            columns: dict[str, Sequence[str] | None] = {KNOWN: None, **TARGETS}
            turns = {name: partial(once, releases, prompts, targets, others) for name, targets in columns.items()}
            table.add(row, "ms", bench.in_turn(f"Table 5, {row}", turns, ROUNDS))
        most = MOST_MS if not bench.scale.smallest else None
        for name in TARGETS:
            table.bound(f"{name}, nothing beside it", table.rows["nothing"][name], most=most)
    finally:
        releases.close()
    return table


def once(releases: Releases, prompts: Prompts, targets: Sequence[str] | None, others: int, turn: int) -> float:
    """Milliseconds of one release's first token."""
    source = random.Random(f"{targets}{others}{turn}")
    if targets is not None:
        releases.release(targets)

    async def measured() -> float:
        async with releases.beside([prompts.text(source, PROMPT_TOKENS) for _ in range(others)]):
            return await releases.first_token_s(prompts.text(source, PROMPT_TOKENS))

    return 1000 * asyncio.run(measured())

"""Our engine as a contender: driven in the caller's thread, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from node.engine.config import Dtype, EngineConfig
from node.engine.engine import Engine
from node.engine.handle import Handle
from node.engine.requests import Generation, GrammarSpec
from node.engine.sampling import SamplingParams
from node.engine.statistics import Statistics
from tests.benchmarks.serving.arms import Answered, read
from tests.benchmarks.serving.jobs import Job
from tests.benchmarks.serving.models import Model, adapter_file

BASE = "base"
MAX_RUNNING = 128


class OurEngine:
    """The engine with the settings of the product, except for the number of answers at a time."""

    def __init__(self, model: Model, number: Dtype, threads: int, adapters: Sequence[Path] = (), running: int = 0):
        config = EngineConfig(dtype=number, device="cpu", threads=threads, max_running=running or MAX_RUNNING)
        self.engine = Engine(model.folder, config)
        self._tokenizer = model.tokenizer
        self.engine.add_model(BASE)
        for place, adapter in enumerate(adapters):
            self.engine.add_model(str(place), [adapter_file(adapter)])
        self.steps = 0

    def answer(self, jobs: Sequence[Job]) -> Answered:
        """All answers at once."""
        self.steps = 0
        started = time.perf_counter()
        handles = [self.engine.submit(generation(job)) for job in jobs]
        while not all(handle.ended for handle in handles):
            self.steps += self.engine.step()
        seconds = time.perf_counter() - started
        tokens = [taken(handle) for handle in handles]
        return Answered(seconds, read(self._tokenizer, tokens, jobs), tokens)

    def statistics(self) -> Statistics:
        """What the engine counted."""
        return self.engine.statistics()

    def close(self) -> None:
        """End the engine."""
        self.engine.close()


def generation(job: Job, grammar: GrammarSpec | None = None) -> Generation:
    """A job as the engine takes it."""
    model = BASE if job.adapter is None else str(job.adapter)
    sampling = SamplingParams(max_tokens=job.new, temperature=0.0, ignore_eos=grammar is None)
    return Generation(model, job.prompt, sampling, tenant=job.tenant, grammar=grammar)


def taken(handle: Handle) -> list[int]:
    """The tokens of an answer that has ended."""
    return [token for chunk in handle.take() for token in chunk.tokens]

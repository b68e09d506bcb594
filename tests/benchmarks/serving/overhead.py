"""Table 6: what HTTP adds to the bare engine at 100 requests a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from node.engine.config import EngineConfig
from node.engine.engine import Engine
from tests.benchmarks.rounds import Figure
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.jobs import Job, Prompts
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.ours import BASE, generation
from tests.benchmarks.serving.servers import our_server
from tests.benchmarks.serving.table import Table
from tests.benchmarks.serving.wire import Wire

REQUESTS_PER_S: Final = 100
SECONDS, FEW_SECONDS = 10, 0.2
NEW = 8
MOST_MS = 5.0
ROUNDS = 5
MODEL: Final = "tiny"  # answers quickly enough that nothing queues: the engine is not what is measured
PERCENTILES = (50, 95)

Ask = Callable[[Job], Awaitable[None]]


def run(bench: Bench, size: str) -> Table:
    """Latencies of the same requests, at a steady rate, by the engine's own door and over HTTP."""
    model = make_model(MODEL, bench.folder)
    prompts = Prompts(model.tokenizer)
    count = int(REQUESTS_PER_S * (FEW_SECONDS if bench.scale.smallest else SECONDS))
    table = Table(f"Table 6: ms at {REQUESTS_PER_S} requests/s of {NEW} tokens", "percentile")
    table.setting = {"parameters": model.parameters, "prompt_tokens": 32, "requests": count}
    found: dict[str, list[list[float]]] = {"engine": [], "HTTP": []}
    engine = Engine(model.folder, EngineConfig(dtype="fp32", device="cpu", threads=bench.threads))
    engine.add_model(BASE)
    engine.start()
    server = our_server(model, bench.folder, "fp32", bench.threads)

    def bare(turn: int) -> float:
        found["engine"].append(asyncio.run(_steady(partial(_by_engine, engine), _jobs(prompts, turn, count))))
        return found["engine"][-1][0]

    def http(turn: int) -> float:
        found["HTTP"].append(asyncio.run(_over_http(server.url, _jobs(prompts, turn, count))))
        return found["HTTP"][-1][0]

    try:
        bench.in_turn("Table 6", {"engine": bare, "HTTP": http}, ROUNDS)
    finally:
        server.close()
        engine.close()
    for place, percentile in enumerate(PERCENTILES):
        columns = {name: [round_[place] for round_ in rounds[1:]] for name, rounds in found.items()}
        table.add(f"p{percentile}", "ms", columns)
        added = [over - alone for over, alone in zip(columns["HTTP"], columns["engine"], strict=True)]
        most = MOST_MS if percentile == 95 and not bench.scale.smallest else None
        table.bound(f"p{percentile}: HTTP adds", Figure.of("ms", added), most=most)
    return table


def _jobs(prompts: Prompts, turn: int, count: int) -> list[Job]:
    return prompts.jobs(turn + 10, [NEW] * count, 32)


async def _steady(ask: Ask, jobs: Sequence[Job]) -> list[float]:
    """Milliseconds at each percentile of jobs that begin at a steady rate, whether or not the earlier ones are done."""

    async def timed(job: Job, begin: float) -> float:
        await asyncio.sleep(begin - time.perf_counter())
        started = time.perf_counter()
        await ask(job)
        return 1000 * (time.perf_counter() - started)

    first = time.perf_counter() + 0.05
    times = await asyncio.gather(*(timed(job, first + place / REQUESTS_PER_S) for place, job in enumerate(jobs)))
    return [float(value) for value in np.percentile(times, PERCENTILES)]


async def _by_engine(engine: Engine, job: Job) -> None:
    made = sum([len(chunk.tokens) async for chunk in engine.generate(generation(job))])
    if made != job.new:
        raise RuntimeError(f"{made} tokens came")


async def _over_http(url: str, jobs: Sequence[Job]) -> list[float]:
    wire = Wire(url)

    async def ask(job: Job) -> None:
        body = {"model": "base", "prompt": job.prompt, "max_tokens": job.new, "temperature": 0, "ignore_eos": True}
        status, content = await wire.post("/v1/completions", json.dumps(body).encode())
        if status != 200 or json.loads(content)["usage"]["completion_tokens"] != job.new:
            raise RuntimeError(f"the server answered {status}: {content[:200]!r}")

    try:
        return await _steady(ask, jobs)
    finally:
        wire.close()

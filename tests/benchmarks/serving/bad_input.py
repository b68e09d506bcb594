"""Table 7: how soon bad input is refused over HTTP, each kind with its own status."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

import numpy as np

from tests.benchmarks.rounds import Figure
from tests.benchmarks.serving.bench import Bench, moment
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.servers import our_server
from tests.benchmarks.serving.table import Table
from tests.benchmarks.serving.wire import Wire

MOST_MS = 100.0
ROUNDS = 50
FEW_ROUNDS = 2
CHAT: Final = "/v1/chat/completions"


def chat(**changes: Any) -> bytes:
    """A request that would be answered, with what is wrong about it."""
    body = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    return json.dumps(body | changes).encode()


def schema(schema: Any) -> dict[str, Any]:
    """A schema as a request has it."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


CASES: Final[dict[str, tuple[int, bytes]]] = {
    "no JSON": (400, b'{"model": "base", "messages": ['),
    "not UTF-8": (400, b'{"model": "base\xff"}'),
    "nested 100,000 deep": (400, b"[" * 100_000),
    "unknown model": (404, chat(model="en/finanse")),
    "no messages": (400, chat(messages=[])),
    "context too long": (400, chat(messages=[{"role": "user", "content": "hello " * 4_000}])),
    "context far too long": (400, chat(messages=[{"role": "user", "content": "hello " * 600_000}])),
    "prompt of 10 MB": (413, chat(messages=[{"role": "user", "content": "x" * 10_000_000}])),
    "invalid schema": (400, chat(response_format=schema({"type": "nonsense"}))),
    "schema of 1 MB": (400, chat(response_format=schema({"enum": ["x" * 100] * 10_000}))),
    "negative max_tokens": (400, chat(max_tokens=-1)),
    "negative temperature": (400, chat(temperature=-0.5)),
    "n = 10^9": (400, chat(n=10**9)),
    "unknown field": (400, chat(nonsense=1)),
}


def run(bench: Bench, size: str) -> Table:
    """Milliseconds from the first byte sent to the last of the answer. Raises RuntimeError for another status."""
    model = make_model("tiny" if bench.scale.smallest else size, bench.folder)
    table = Table("Table 7: ms until bad input is refused", "input")
    rounds = FEW_ROUNDS if bench.scale.smallest else ROUNDS
    server = our_server(model, bench.folder, "fp32", bench.threads)
    try:
        asyncio.run(_measured(server.url, 1))
        bench.moments.append({"what": "Table 7", "round": 0, **moment()})
        found = asyncio.run(_measured(server.url, rounds))
    finally:
        server.close()
    for name, times in found.items():
        table.add(f"{name} ({CASES[name][0]})", "ms", {"ms": times})
        slowest = Figure.of("ms", [float(np.percentile(times, 95))])
        table.bound(f"{name}, p95", slowest, most=None if bench.scale.smallest else MOST_MS)
    return table


async def _measured(url: str, rounds: int) -> dict[str, list[float]]:
    wire = Wire(url)
    found: dict[str, list[float]] = {name: [] for name in CASES}
    try:
        for _ in range(rounds):
            for name, (expected, body) in CASES.items():
                started = time.perf_counter()
                status, content = await wire.post(CHAT, body)
                found[name].append(1000 * (time.perf_counter() - started))
                if status != expected or not json.loads(content)["error"]["message"]:
                    raise RuntimeError(f"{name}: {status} {content[:300]!r}")
    finally:
        wire.close()
    return found

"""A server as a contender: /v1/completions, every job on a connection of its own, all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx

from tests.benchmarks.serving.arms import Answered
from tests.benchmarks.serving.jobs import Job
from tests.benchmarks.serving.servers import Server

LONGEST_S = 600.0


class OverHttp:
    """What clients of a server see. `more` goes into every body, such as what turns the model's own end off."""

    def __init__(self, server: Server, more: dict[str, Any] | None = None) -> None:
        self.server = server
        self._more = more or {}

    def answer(self, jobs: Sequence[Job]) -> Answered:
        """All answers at once. The seconds hold the sending and the reading."""
        return asyncio.run(self._answer(jobs))

    async def _answer(self, jobs: Sequence[Job]) -> Answered:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=LONGEST_S, limits=limits) as client:
            started = time.perf_counter()
            texts = await asyncio.gather(*(self._one(client, job) for job in jobs))
            return Answered(time.perf_counter() - started, list(texts))

    async def _one(self, client: httpx.AsyncClient, job: Job) -> str:
        body = {"model": self.server.model, "prompt": job.text, "max_tokens": job.new, "temperature": 0.0}
        reply = await client.post("/v1/completions", json=body | self._more)
        if not reply.is_success:
            raise RuntimeError(f"{self.server.model} answered {reply.status_code}: {reply.text[:200]}")
        found = reply.json()
        if found["usage"]["completion_tokens"] != job.new or found["usage"]["prompt_tokens"] != len(job.prompt):
            raise RuntimeError(f"{found['usage']} does not fit a job of {len(job.prompt)} and {job.new} tokens")
        return str(found["choices"][0]["text"])

    def close(self) -> None:
        """End the server."""
        self.server.close()

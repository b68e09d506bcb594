"""`Watch`: what must hold whenever nobody asks for anything, and what must not grow between two such moments."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import httpx
import psutil

IDLE_S: Final = 30.0  # within which the work of clients that left must have ended
SPARE_TASKS: Final = 3
SPARE_FILES: Final = 8
MB: Final = 1_000_000
GROWTH_MB: Final = 64.0  # of memory, from the first third of the moments to the last; the first one is before the work
GROWTH: Final = 0.15
FEWEST_MOMENTS: Final = 6
GAUGES: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


@dataclass(slots=True)
class Watch:
    """Looks at a server by /metrics, at its process by `pid`, and through its window (/inside) where it has one."""

    http: httpx.AsyncClient
    pid: int | None = None
    connections: int = 0  # that clients may have open when they rest
    moments: list[dict[str, Any]] = field(default_factory=list)

    async def look(self) -> list[str]:
        """Wait until the server does nothing, note how it stands; what is wrong, in words."""
        for _ in range(int(IDLE_S / 0.1)):
            gauges = await self._gauges()
            window = await self._window()
            if not any(gauges.values()) and not any(window.get(name) for name in ("open", "answers", "requests")):
                break
            await asyncio.sleep(0.1)
        moment: dict[str, Any] = {**gauges, **window}
        if self.pid is not None:
            process = psutil.Process(self.pid)
            moment |= {"rss": process.memory_info().rss, "files": process.num_fds()}
        self.moments.append(moment)
        return problems(self.moments, self.connections)

    async def _gauges(self) -> dict[str, float]:
        text = (await self.http.get("/metrics")).text
        return {name: _largest(text, name) for name in GAUGES}

    async def _window(self) -> dict[str, Any]:
        reply = await self.http.get("/inside")
        if reply.status_code == 404:
            return {}
        found: dict[str, Any] = reply.raise_for_status().json()
        return found


def problems(moments: Sequence[dict[str, Any]], connections: int = 0) -> list[str]:
    """What is wrong with the last of these moments of rest, beside the first one; each connection is a file."""
    first, last = moments[0], moments[-1]
    busy = (*GAUGES, "used", "running", "waiting", "open", "answers", "requests", "news")
    found = [f"{name} is {last[name]} with nobody asking" for name in busy if last.get(name)]
    if "total" in last and last["free"] + last["cached"] + last["used"] != last["total"]:
        found.append(f"pages are lost: {last}")
    for name, spare in (("tasks", SPARE_TASKS), ("files", SPARE_FILES + connections)):
        if name in last and last[name] > first[name] + spare:
            found.append(f"{name} went from {first[name]} to {last[name]}")
    if len(moments) >= FEWEST_MOMENTS:
        worked = [one.get("rss", 0) for one in moments[1:]]
        third = len(worked) // 3
        before, after = median(worked[:third]), median(worked[-third:])
        if after > before * (1 + GROWTH) and after - before > GROWTH_MB * MB:
            found.append(f"memory went from {before / MB:.0f} to {after / MB:.0f} MB")
    return found


def _largest(text: str, name: str) -> float:
    """The largest value of a series in the text format of Prometheus."""
    return max((float(value) for value in re.findall(rf"^banyan_{name}{{[^}}]*}} (\S+)$", text, re.M)), default=0.0)

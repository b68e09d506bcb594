"""Let random clients loose on a real node process and see whether anything leaks, sticks or is answered wrongly.

    python -m tests.soak --minutes 30                       # on a server of its own, with a tiny model and adapters
    python -m tests.soak --minutes 30 --url URL --model M   # on a server that runs, and that answers greedily alike

Every minute the clients pause, and once the server has nothing to do it must hold no page, no request and no more
tasks, files or memory than before. Its own server is so small that requests are refused, answers preempted and adapters
evicted all the time; a run without any of these proves little and is wrong, too. The exit code is 1 when anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.serving.models import make_adapters, make_model
from tests.processes import end, first_line, start
from tests.soak.clients import LONGEST_S, Client, Found
from tests.soak.questions import Question, make_questions
from tests.soak.watch import Watch

ADAPTERS = 5  # more than the server has slots
EACH = 12
WORN = ("preemptions", "evictions")  # of a server that lets itself be looked into: how often something ran out
WORDS = ("what is my balance", "open an account", "close it", "a list of branches near the station", "cards")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many clients at a time, how often they pause, and where chance begins."""

    seconds: float
    clients: int = 24
    pause_every_s: float = 60.0
    seed: int = 0


async def soak(url: str, pid: int | None, questions: Sequence[Question], plan: Plan) -> dict[str, Any]:
    """What clients and watch found; `problems` is empty when all is well."""
    found = Found()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=plan.clients)
    async with httpx.AsyncClient(base_url=url, timeout=LONGEST_S + 5, limits=limits) as http:
        clients = [Client(http, questions, random.Random(f"{plan.seed}.{n}"), found) for n in range(plan.clients)]
        watch = Watch(http, pid, plan.clients)
        for client in clients[:4]:  # what is made once is made before the first look
            for _ in range(3):
                await client.act()
        found.problems += await watch.look()
        until = time.monotonic() + plan.seconds
        while (left := until - time.monotonic()) > 0 and not found.problems:
            pause = time.monotonic() + min(left, plan.pause_every_s)
            await asyncio.gather(*(_until(client, pause) for client in clients))
            found.problems += await watch.look()
            say(watch.moments[-1], found)
    pressure = {"refusals": found.busy} | {name: watch.moments[-1][name] for name in WORN if name in watch.moments[-1]}
    said = {"counts": dict(found.counts), "pressure": pressure, "problems": found.problems}
    return {"plan": asdict(plan), **said, "moments": watch.moments}


def unproven(result: dict[str, Any]) -> list[str]:
    """What never ran out, though a soak of minutes should have brought it to that."""
    return [f"no {name} in all this time: this proves little" for name, n in result["pressure"].items() if not n]


async def _until(client: Client, pause: float) -> None:
    while time.monotonic() < pause:
        await client.act()


def say(moment: dict[str, Any], found: Found) -> None:
    """A line for people."""
    shown: dict[str, Any] = {
        name: moment[name] for name in ("free", "cached", "used", "tasks", "files", "slots") if name in moment
    }
    shown |= {"MB": round(moment.get("rss", 0) / 1e6)} | {name: moment.get(name) for name in WORN}
    sys.stdout.write(f"{sum(found.counts.values()):7} requests, {found.busy} found it busy, {shown}\n")
    sys.stdout.flush()


@contextmanager
def own_server(folder: Path) -> Iterator[tuple[str, int, list[Question]]]:
    """A server in a process of its own: its address, its number, and what to ask it."""
    model = make_model("tiny", folder)
    adapters = [(f"a{place}", one) for place, one in enumerate(make_adapters(model, ADAPTERS, folder))]
    questions = make_questions(model, adapters, EACH, 0)
    process: subprocess.Popen[bytes] = start(
        "-m", "tests.soak.server", model.folder, *(f"{name}={place}" for name, place in adapters)
    )
    try:
        yield first_line(process), process.pid, questions
    finally:
        process.terminate()
        code = end(process)
    if code not in (0, -signal.SIGTERM):  # uvicorn lets the signal that ended it do its work
        raise RuntimeError(f"the server ended with {code}")


def asked_before(url: str, model: str) -> list[Question]:
    """Questions for a server that runs, with what it answers to each alone."""
    source = random.Random(0)
    found = []
    for _ in range(EACH):
        prompt = " ".join(source.choices(WORDS, k=source.randint(1, 12)))
        body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=LONGEST_S).raise_for_status().json()
        found.append(Question(model, prompt, 24, reply["choices"][0]["text"]))
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=Plan(0).clients, help="how many at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="a server that runs; without it one is started")
    parser.add_argument("--model", help="the model of that server to ask")
    parser.add_argument("--pid", type=int, help="the process of that server, to watch its memory")
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    given = parser.parse_args(arguments)
    if given.url and not given.model:
        parser.error("--url needs --model")
    plan = Plan(60 * given.minutes, given.clients, seed=given.seed)
    if given.url:
        result = asyncio.run(soak(given.url, given.pid, asked_before(given.url, given.model), plan))
    else:
        with tempfile.TemporaryDirectory() as folder, own_server(Path(folder)) as (url, pid, questions):
            result = asyncio.run(soak(url, pid, questions, plan))
    result["problems"] += unproven(result)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{json.dumps(result['counts'])}\n")
    sys.stdout.writelines(f"PROBLEM: {one}\n" for one in result["problems"][:50])
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

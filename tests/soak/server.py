"""A real node process, with a window for who tests it: `python -m tests.soak.server FOLDER [NAME=ADAPTER...]`.

It is what `node start` runs: the same models, application and server. The only addition is GET /inside, which says how
the cache, the slots, the tasks and the memory of the process stand. It prints its address.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
from typing import Any, Final

import psutil
from fastapi import FastAPI
from fastapi.routing import APIRoute

from node.api.server import make_server
from node.api.simple.app import WithDefaults, create_started_app
from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.generation import said_by
from node.started import started

# Small enough that everything runs out all the time: pages, slots, places in the queue.
CONFIG: Final = EngineConfig(
    dtype="fp32",
    device="cpu",
    threads=1,
    cache_tokens=640,
    max_running=12,
    chunk_tokens=128,
    max_waiting=10,
    max_wait_s=30.0,
    adapter_slots=3,
)
CALL_S: Final = 30.0


def inside(engine: Engine) -> dict[str, Any]:
    """How an engine stands between two of its steps. Raises when its cache is not in order."""
    return engine._worker.call(lambda: _standing(engine), CALL_S)


def _standing(engine: Engine) -> dict[str, Any]:
    loop = engine._loop
    blocks = loop.scheduler.blocks
    blocks.check_integrity()
    return {
        "free": blocks.free,
        "cached": blocks.cached,
        "used": blocks.used,
        "total": blocks.total,
        "preemptions": loop.scheduler.preemptions,
        "running": len(loop.scheduler.running),
        "waiting": len(loop.scheduler.waiting),
        "open": len(engine._open),
        "answers": len(loop._answers),
        "requests": len(loop._open),
        "news": len(loop.news),
        "slots": len(engine._runner.adapters.loaded),
        "evictions": engine._runner.adapters.given_up,
    }


def add_window(app: FastAPI, engine: Engine) -> None:
    """The route /inside."""

    async def window() -> dict[str, Any]:
        standing = await asyncio.to_thread(inside, engine)
        gc.collect()
        process = psutil.Process()
        return standing | {
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "files": process.num_fds(),
            "rss": process.memory_info().rss,
            "objects": len(gc.get_objects()),
        }

    app.router.routes.append(APIRoute("/inside", window, methods=["GET"]))


def main() -> None:
    """Serve until told to end."""
    folder, *adapters = sys.argv[1:]
    said = said_by({"temperature": "0"}, {})
    with started([f"base={folder}"], adapters, None, CONFIG, said) as models:
        app = create_started_app(models, WithDefaults(models), [])
        add_window(app, next(iter(models.engines.values())))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            sys.stdout.write(f"http://127.0.0.1:{port}\n")
            sys.stdout.flush()
            make_server(app, "127.0.0.1", port).run(sockets=[listening])


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()

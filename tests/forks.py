"""Processes that are forked from a server which has imported everything, so that a start costs milliseconds.

The server is one for all of a Python process: `prepare` comes before the first `start`, and only once counts.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

from tests.faults.shim import preloaded

LONGEST_S: Final = 300.0  # that anything is waited for, on a machine that does other things too
LOOK_S: Final = 0.05  # between two looks whether a process that is not ready has ended

# What daemons and commands import on their way.
IMPORTED: Final = (
    "tests.daemon_actors", "tests.killed_acts", "tests.toy", "node.api.app", "node.api.server", "node.clone",
    "node.finetune", "node.models", "node.passing_up", "node.promotions", "node.rebasing", "sync.consolidate",
    "sync.promote", "sync.rebase", "sync.repeated", "sync.score", "sync.train", "anyio._backends._asyncio",
    "encodings.idna", "pydantic.v1", "peft.utils.transformers_weight_conversion",
    "transformers.models.llama.modeling_llama", "tuf.api.serialization.json", "uvicorn.lifespan.on",
    "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto",
)  # fmt: skip

_forks = multiprocessing.get_context("forkserver")


def prepare(library: Path | None = None) -> None:
    """Start the server that processes are forked from; with `library`, the shim is loaded into each of them."""
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    with preloaded(library):
        start(os.getpid).join(LONGEST_S)


def start(what: Callable[..., object], *arguments: object) -> BaseProcess:
    """Fork a process that does one thing."""
    process = _forks.Process(target=what, args=arguments)
    process.start()
    return process


def stop(process: BaseProcess) -> None:
    """End a process as a power cut would; nothing if it has ended."""
    process.kill()
    process.join(LONGEST_S)
    if process.is_alive():
        raise AssertionError(f"process {process.pid} does not end when it is killed")


def start_ready(what: Callable[..., object], *arguments: object) -> BaseProcess:
    """Fork a process and wait until it sets the event that is its last argument. AssertionError where it ends first."""
    ready: Event = _forks.Event()
    process = start(what, *arguments, ready)
    while not ready.wait(LOOK_S):
        assert process.is_alive(), f"the process ended with {process.exitcode} before it was ready"
    return process

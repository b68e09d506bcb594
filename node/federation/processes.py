"""Flower's SuperLink and SuperNode as child processes: started, waited for, ended, with their logs in the home."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from registry.durable import make_folder
from registry.errors import LocalFailure

START_S: Final = 90.0
END_S: Final = 10.0
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def flower_process(
    program: str, words: Sequence[str | Path], port: int, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower while the block runs, from the moment that it listens on a port of this machine.

    Raises LocalFailure where it is not installed, ends early or does not listen in time; its log names the cause.
    """
    command = Path(sys.executable).with_name(program)
    if not command.exists():
        raise LocalFailure(f"{program} is not installed here", "pip install 'banyan-node[federation]'")
    make_folder(folder)
    log = folder / f"{program}.log"
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder / "flwr")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _await(process, port, program, log)
        yield process
    finally:
        end(process)


@contextmanager
def flower_logs(file: Path) -> Iterator[None]:
    """Flower's own words of this process go into a file while the block runs, and no longer to the terminal."""
    make_folder(file.parent)
    flower, ours = logging.getLogger("flwr"), logging.FileHandler(file, encoding="utf-8")
    for handler in list(flower.handlers):
        if type(handler) is not logging.FileHandler:
            flower.removeHandler(handler)
    flower.propagate = False
    flower.addHandler(ours)
    try:
        yield
    finally:
        flower.removeHandler(ours)
        ours.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it where it does not."""
    if process.poll() is None:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
        return
    process.kill()
    process.wait(END_S)


def ended(process: subprocess.Popen[bytes], program: str, log: Path) -> LocalFailure:
    """What to say of a process that ended by itself."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return LocalFailure(f"{program} ended with {process.returncode}: {lines[-1] if lines else 'no word'}", f"see {log}")


def _await(process: subprocess.Popen[bytes], port: int, program: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ended(process, program, log)
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)
    raise LocalFailure(f"{program} did not listen within {START_S:g} s", f"see {log}")

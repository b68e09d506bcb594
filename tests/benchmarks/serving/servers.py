"""Servers in processes of their own: ours as `node start` begins it, and `transformers serve`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import httpx

from tests.benchmarks.serving.arms import NotInstalledError
from tests.benchmarks.serving.models import Model
from tests.processes import ROOT

START_S = 180.0
END_S = 60.0
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class Server:
    """A process that serves a model at `url`; what it writes goes to a file that is gone with it."""

    def __init__(
        self, words: Sequence[str], model: str, variables: Mapping[str, str], threads: int, url: str = ""
    ) -> None:
        self.model = model
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BANYAN_")}
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed by `close`
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={
                **kept,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": str(threads),
                "HF_HUB_OFFLINE": "1",
                **variables,
            },
        )
        try:
            self.url = url or self._announced()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process as a person would."""
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_S)
        self._log.close()

    def written(self) -> str:
        """What it has written so far."""
        self._log.seek(0)
        return self._log.read()

    def _announced(self) -> str:
        """The address in the first line of its log that has one."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r"http://[0-9.:]+", self.written()):
                return found[0]
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self.written()[-500:]}")

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError(f"the server is not ready: {self.written()[-500:]}")


def our_server(
    model: Model, folder: Path, number: str, threads: int, settings: Mapping[str, str] | None = None
) -> Server:
    """`node start` on a model folder, with the node's settings as environment variables."""
    words = ["-m", "node.cli", "start", f"base={model.folder}", "--port", "0", "--device", "cpu", "--dtype", number]
    variables = {"BANYAN_HOME": str(folder / "home"), **(settings or {})}
    return Server([*words, "--threads", str(threads)], "base", variables, threads)


def transformers_serve(model: Model, folder: Path, number: str, threads: int) -> Server:
    """`transformers serve` with continuous batching, the cache as large as ours. Raises NotInstalledError."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise NotInstalledError("what `transformers serve` needs is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "transformers.cli.transformers", "serve", str(model.folder), "--continuous-batching"]
    words += ["--device", "cpu", "--dtype", DTYPES[number], "--host", "127.0.0.1", "--port", str(port)]
    words += ["--cb-block-size", "256", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "512"]
    return Server(words, str(model.folder), {}, threads, f"http://127.0.0.1:{port}")

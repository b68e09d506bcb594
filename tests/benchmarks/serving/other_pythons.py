"""Contenders that live in a process of their own: what they need clashes with what we need, or they work in a thread.

Two threads of one process that both run parallel operations slow each other down, even when one of them rests.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer

from tests.benchmarks.serving.arms import Answered, NotInstalledError, read
from tests.benchmarks.serving.jobs import Job
from tests.benchmarks.serving.models import Model
from tests.benchmarks.serving.transformers_arms import load

WORKER: Final = Path(__file__).with_name("peer_worker.py")
MODULES: Final = {
    "generate_batch fp32": "transformers",
    "generate_batch bf16": "transformers",
    "ctranslate2": "ctranslate2",
    "llama-cpp": "llama_cpp",
}
CONVERT: Final = (
    "import sys, ctranslate2.converters as c; c.TransformersConverter(sys.argv[1]).convert(sys.argv[2], force=True)"
)
CONVERT_S: Final = 300.0


def python_of(kind: str, pythons: Mapping[str, str]) -> str:
    """The Python that has a peer. Raises NotInstalledError."""
    if kind in pythons:
        return pythons[kind]
    if importlib.util.find_spec(MODULES[kind]) is None:
        raise NotInstalledError(f"not installed; --peer-python {kind}=PYTHON names a Python that has it")
    return sys.executable


class OtherPython:
    """A peer that answers over a pipe; its seconds are its own, without the pipe."""

    def __init__(self, kind: str, model: Model, threads: int, pythons: Mapping[str, str]) -> None:
        python = python_of(kind, pythons)
        converted = model.folder
        if kind == "ctranslate2":
            converted = to_ctranslate2(python, model)
        elif kind == "llama-cpp":
            converted = to_gguf(model)
        self._tokenizer = model.tokenizer
        self._process = subprocess.Popen(
            [python, str(WORKER), kind, str(converted), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        first = self._line()
        if "missing" in first:
            self.close()
            raise NotInstalledError(f"not installed: {first['missing']}")
        self.version = str(first["version"])

    def answer(self, jobs: Sequence[Job]) -> Answered:
        """All answers, as the peer does several."""
        assert self._process.stdin is not None
        asked = {"prompts": [job.prompt for job in jobs], "new": [job.new for job in jobs]}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found = self._line()
        tokens: list[list[int]] = found["tokens"]
        return Answered(float(found["seconds"]), read(self._tokenizer, tokens, jobs), tokens)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotInstalledError(f"it ended with {self._process.wait(60)}")
        value: dict[str, Any] = json.loads(line)
        return value


def to_ctranslate2(python: str, model: Model) -> Path:
    """The folder that CTranslate2's own converter makes, fp32; it needs transformers in that Python."""
    folder = model.folder.with_name(f"{model.name}-ctranslate2")
    if not folder.exists():
        done = subprocess.run(
            [python, "-c", CONVERT, str(model.folder), str(folder)],
            check=False,
            capture_output=True,
            text=True,
            timeout=CONVERT_S,
        )
        if done.returncode:
            raise NotInstalledError(f"its converter failed: {done.stderr.strip().splitlines()[-1]:.200}")
        # The converter writes null for tokens that the model does not have, the library then wants a string.
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = {key: model.tokenizer.pad_token if value is None else value for key, value in settings.items()}
        (folder / "config.json").write_text(json.dumps(named), encoding="utf-8")
    return folder


def to_gguf(model: Model) -> Path:
    """The model as GGUF, fp32, as `node export` writes it. Raises NotInstalledError where `gguf` is not there."""
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalledError("gguf, which writes its files, is not installed")
    from node.gguf import MODEL_FILE, write_model

    folder = model.folder.with_name(f"{model.name}-gguf")
    if not (folder / MODEL_FILE).exists():
        folder.mkdir(exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
        write_model(load(model, "fp32"), tokenizer, model.folder, folder, model.name, "fp32")
    return folder / MODEL_FILE

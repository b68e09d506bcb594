"""A small tree of a tiny model behind a real node process, and the Hub's own clients as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from node.context import Node, open_node
from node.settings import Settings
from registry.documents import BaseManifest, ReleasePin
from sync.delta import Delta, Factor
from tests.node.tiny_models import save_tiny
from tests.processes import node_process
from tests.toy_tree import SETTINGS, put_toy_release
from tests.world import make_node, put_base, put_enrolment

TOKEN = "a-token-for-tests"


@dataclass(frozen=True)
class Tree:
    """The home of a node, its releases, its base."""

    home: Path
    pins: dict[str, ReleasePin]
    base: BaseManifest

    def open(self) -> Node:
        return open_node(Settings(home=self.home))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base: a random Llama of two layers."""
    return save_tiny(tmp_path_factory.mktemp("base"), hidden_size=64, intermediate_size=128, initializer_range=0.1)


def random_delta(seed: int, rank: int, *modules: str) -> Delta:
    """A change of both layers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128)}
    return {
        f"model.layers.{layer}.{module}": Factor(
            torch.randn(rank, shapes[module][1], generator=generator) * 0.1,
            torch.randn(shapes[module][0], rank, generator=generator) * 0.2,
        )
        for layer in range(2)
        for module in modules
    }


@pytest.fixture(scope="session")
def deltas() -> dict[str, Delta]:
    """Two changes of different rank, in different modules."""
    return {
        "en/shapes": random_delta(1, 3, "self_attn.q_proj", "mlp.up_proj"),
        "en/tools": random_delta(2, 5, "mlp.up_proj", "mlp.down_proj"),
    }


@pytest.fixture(scope="session")
def tree(model_folder: Path, deltas: dict[str, Delta], tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """`en` is the base alone, `en/shapes` has an adapter, `en/shapes/tools` another over it; `en/own` is private."""
    home = tmp_path_factory.mktemp("hub") / "home"
    node = make_node(home, "en", hub_token=TOKEN, **SETTINGS)
    base = put_base(node, {file.name: file.read_bytes() for file in model_folder.iterdir()})
    en = put_toy_release(node, "en", base)
    shapes, tools = deltas["en/shapes"], deltas["en/tools"]
    pins = {"en": en, "en/shapes": put_toy_release(node, "en/shapes", base, above=en, delta=shapes)}
    pins["en/shapes/tools"] = put_toy_release(node, "en/shapes/tools", base, above=pins["en/shapes"], delta=tools)
    pins["en/own"] = put_toy_release(node, "en/own", base, above=en, delta=tools)
    put_enrolment(node, "en/shapes/tools/somebody")
    node.close()
    return Tree(home, pins, base)


@pytest.fixture(scope="session")
def endpoint(tree: Tree) -> Iterator[str]:
    """The address of a process that serves the tree; nothing is uploaded to it."""
    with node_process(tree.home) as url:
        yield url


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program that knows nothing of this project, with an empty cache: `client(url, "hf", "download", ...)`.

    The name of a Python text runs that text: `client(url, "python", TEXT, argument)`.
    """

    def run(url: str, program: str, *arguments: str | Path, token: str = "") -> subprocess.CompletedProcess[str]:
        known = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        environment = known | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "hf_home"),
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "*",
        }
        if token:
            environment["HF_TOKEN"] = token
        command = [sys.executable, "-c"] if program == "python" else [str(Path(sys.executable).with_name(program))]
        return subprocess.run(
            [*command, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


def said(done: subprocess.CompletedProcess[str]) -> object:
    """The JSON that a program printed last."""
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    return json.loads(done.stdout.strip().splitlines()[-1])

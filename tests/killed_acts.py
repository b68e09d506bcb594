"""What the processes of `tests.killed_work` run: a command, or the parent that serves it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

from node.api.app import create_app
from node.api.server import make_server
from node.context import Node, opened_node
from node.settings import Settings, load_settings
from registry.errors import BanyanError
from registry.paths import NodePath, Ref
from tests.daemon_actors import REFUSED
from tests.world import utc_now

CARDS = "en/finance/cards"
NUMBERS = "en/numbers"


def act(what: str, folder: Path, ready: Event) -> None:
    """A command; it says when it begins, so that kills fall into the work and not before it."""
    home, do = ACTS[what](folder)
    try:
        with opened_node(load_settings({"home": home})) as node:
            ready.set()
            do(node)
    except BanyanError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(REFUSED)


def serve(home: Path, port: int, ready: Event) -> None:
    """The parent's interface."""
    with opened_node(Settings(home=home)) as node, socket.create_server(("127.0.0.1", port)) as listening:
        ready.set()
        make_server(create_app(node), "127.0.0.1", 0).run(sockets=[listening])


def _clone(folder: Path) -> tuple[Path, Callable[[Node], object]]:
    import sync.delta  # noqa: F401  what a clone imports on its way
    from node.clone import clone

    return folder / "child", lambda node: clone(node, Ref.parse("en/finance"), folder / "out", now=utc_now())


def _finetune(folder: Path) -> tuple[Path, Callable[[Node], object]]:
    from transformers import LlamaForCausalLM  # noqa: F401  the same

    from node.finetune import FinetuneRequest, finetune
    from sync.train import TrainPlan

    plan = TrainPlan(rank=4, alpha=4.0, epochs=3, batch_tokens=512, learning_rate=1e-2, checkpoint_every_s=0.0)
    request = FinetuneRequest(folder / "rows.jsonl", plan=plan, score_rows=8)
    return folder / "home", lambda node: finetune(node, NodePath.parse(NUMBERS), request)


def _publish(folder: Path) -> tuple[Path, Callable[[Node], object]]:
    from node.publish import publish

    return folder / "child", lambda node: publish(
        node, NodePath.parse(CARDS), None, 0, lambda outgoing: True, now=utc_now()
    )


ACTS = {"clone": _clone, "finetune": _finetune, "publish": _publish}  # what `inbox` kills works for a publish

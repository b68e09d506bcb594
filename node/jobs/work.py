"""One job, in a process of its own: `python -m node.jobs.work`, with its order on stdin. It ends when stdin does."""

from __future__ import annotations

import io
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from node.context import Node, opened_node
from node.jobs import queue
from node.jobs.order import MAX_ORDER_BYTES, Order
from node.jobs.queue import Progress
from node.jobs.requests import CloneRequest, EvaluateRequest, FinetuneRequest, JobRequest
from node.settings import Settings
from registry.durable import make_folder
from registry.errors import BanyanError
from registry.paths import NodePath, Ref

NICER: Final = 5  # whoever asks the node something comes first
TOLD_EVERY_S: Final = 1.0

Tell = Callable[..., None]


def main() -> None:
    """Read the order, do the work, write down what came of it."""
    order = Order.model_validate_json(io.FileIO(0, closefd=False).readline(MAX_ORDER_BYTES))
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    os.nice(NICER)
    with opened_node(Settings(**order.settings), order.passphrase) as node:
        carry_out(node, order.job)


def carry_out(node: Node, number: int) -> None:
    """Do the work of a running job in this process."""
    job = queue.find(node.store, number, None)
    try:
        result = _worked(node, job.request, _Teller(node, number))
    except BanyanError as error:
        queue.fail(node.store, number, error.message, error.hint, datetime.now(UTC))
    except Exception as error:  # a bug: it stands in the row, and with its lines on stderr
        queue.fail(node.store, number, f"{type(error).__name__}: {error}"[:1_000], "this is a bug", datetime.now(UTC))
        raise
    else:
        queue.finish(node.store, number, _finite(result), datetime.now(UTC))


class _Teller:
    """Writes down how far the work is, at most once a second within a stage."""

    def __init__(self, node: Node, number: int) -> None:
        self._node, self._number = node, number
        self._stage, self._began, self._told = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, total: int, seconds_left: float | None = None, **figures: float) -> None:
        """`done` of `total` of a stage; without a word of the time left it is that at the pace so far."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        elif now - self._told < TOLD_EVERY_S:
            return
        self._told = now
        if seconds_left is None and done:
            seconds_left = (now - self._began) * (total - done) / done
        progress = Progress(
            stage=stage, done=done, total=total, seconds_left=_finite(seconds_left), figures=_finite(figures)
        )
        queue.note(self._node.store, self._number, progress, datetime.now(UTC))


def _finite(value: Any) -> Any:
    """Plain values without what JSON has no number for: a loss may come to nothing, and is told of all the same."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _worked(node: Node, asked: JobRequest, tell: Tell) -> dict[str, Any]:
    match asked:
        case CloneRequest():
            return _clone(node, asked, tell)
        case FinetuneRequest():
            return _finetune(node, asked, tell)
        case EvaluateRequest():
            return _evaluate(node, asked, tell)


def _clone(node: Node, asked: CloneRequest, tell: Tell) -> dict[str, Any]:
    from node.clone import clone

    make_folder(node.home.clones)
    os.chdir(node.home.clones)  # where a folder lies that nobody named
    out = Path(asked.out) if asked.out else None
    done = clone(
        node,
        Ref.parse(asked.model),
        out,
        lambda progress: tell("fetch", progress.done, progress.total),
        now=datetime.now(UTC),
    )
    return {
        "release": str(done.ref),
        "digest": done.release,
        "source": done.source,
        "folder": str(done.folder),
        "base_folder": str(done.base_folder),
        "moved_bytes": done.moved_bytes,
    }


def _finetune(node: Node, asked: FinetuneRequest, tell: Tell) -> dict[str, Any]:
    from node import finetune
    from node.training import Progress as Trained

    place = NodePath.parse(asked.model)
    said = asked.model_dump(include={"rank", "epochs", "seed"}, exclude_none=True)
    if asked.rank is not None:
        said["alpha"] = float(asked.rank)
    plan = replace(finetune.default_plan(node, place), **said) if said else None

    def on_progress(progress: Trained) -> None:
        step = progress.step
        figures = {"loss": step.loss, "tokens_per_s": step.tokens_per_s} if step else {}
        left = step.seconds_left if step else None
        tell(progress.stage, progress.done, progress.total, left, **figures)

    request = finetune.FinetuneRequest(Path(asked.data), plan=plan, continuing=asked.method)
    done = finetune.finetune(node, place, request, on_progress)
    assert done.outcome is not None  # noqa: S101 - only a dry run has none
    outcome = done.outcome
    return {
        "release": f"{outcome.release.path}@v{outcome.release.version}",
        "digest": outcome.release.digest,
        "run": done.run,
        "folder": str(done.folder),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "gain_points": outcome.gain_points,
        "forgotten_points": outcome.forgotten_points,
    }


def _evaluate(node: Node, asked: EvaluateRequest, tell: Tell) -> dict[str, Any]:
    from node.evaluate import evaluate

    return evaluate(node, Ref.parse(asked.model), Path(asked.data), lambda done, total: tell("score", done, total))


def _end_with_the_runner() -> None:
    """The runner writes nothing after the order: what comes is the end of the pipe, and of the runner."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()

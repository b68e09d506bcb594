"""One fine-tune in its folder: scored, trained, scored again. What is done is in the folder and not done twice.

    manifest.json  train.jsonl validation.jsonl test.jsonl   what goes in: own rows only, readable by their owner only
    before.json  fit/  metrics.jsonl  adapter_model.safetensors  after.json  loss.png loss.svg

Preparing the run and making a release of it is left to `node.finetune`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from node.bases import base_folder
from node.context import Node
from node.curve import draw_curve
from node.footing import Footing
from node.manifest import RunManifest
from node.material import Material
from node.measure import Measured, measure
from node.metrics import MetricsLog, read_curve
from node.models import composer
from registry.documents import AdapterShape
from registry.durable import sync_folder
from sync.continual import grown, protected_by
from sync.delta import WEIGHTS_FILE, Delta, read_adapter, write_adapter
from sync.model import LoadedModel, add, load_model
from sync.train import StepReport, fit

Stage = Literal["score before", "train", "score after"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, in rows when scoring and in steps when training; `step` tells more of the latter."""

    stage: Stage
    done: int
    total: int
    step: StepReport | None = None


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The adapter that came of a run."""

    file: Path
    shape: AdapterShape
    sha256: str
    steps: int
    best_epoch: int
    tokens: int = 0  # that this process trained on, and how many of them a second
    tokens_per_s: float = 0.0
    recompression_error: float | None = None  # where the run went on beside an adapter


@dataclass(frozen=True, slots=True)
class Scored:
    """The adapter with the figures before and after."""

    adapter: Trained
    before: Measured
    after: Measured


@dataclass(frozen=True)
class Training:
    """A prepared fine-tune and the folder that it works in."""

    node: Node
    footing: Footing
    manifest: RunManifest
    material: Material
    folder: Path
    on_progress: OnProgress = ignore

    def scored(self) -> Scored:
        """Everything: the figures before, the training, the figures after, the curve."""
        unchanged, before = self._before()
        loaded = unchanged or self.fresh_model()
        trained = self.trained(loaded)
        after = self._after(loaded, trained)
        draw_curve(read_curve(self.folder / "metrics.jsonl"), self.manifest.path, self.folder / "loss")
        return Scored(trained, before, after)

    def trained(self, loaded: LoadedModel) -> Trained:
        """Train over a fresh model; the adapter of the best epoch, as a file."""
        plan, material, continuing = self.manifest.train_plan, self.material, self.manifest.continuing
        start = self._start_delta()
        beside = start if continuing else None
        protected = protected_by(continuing.method, loaded, beside, plan.targets) if continuing and beside else None
        last: StepReport | None = None
        with MetricsLog(self.folder / "metrics.jsonl") as log:

            def on_step(report: StepReport) -> None:
                nonlocal last
                last = report
                log.write(report)
                self.on_progress(Progress("train", report.step, report.total_steps, report))

            result = fit(
                loaded,
                material.train,
                material.validation,
                plan,
                self.folder / "fit",
                on_step,
                None if continuing else start,
                protected,
            )
        delta, error = result.delta, None
        if continuing and beside:
            delta, error = grown(beside, delta, continuing.rank_bound)
        file = self.folder / WEIGHTS_FILE
        shape = write_adapter(delta, file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        tokens, speed = (last.tokens, last.tokens_per_s) if last else (0, 0.0)
        return Trained(file, shape, digest, result.steps, result.best_epoch, tokens, speed, error)

    def fresh_model(self) -> LoadedModel:
        """The model that is trained over: the releases above, and the adapter that new factors stand beside."""
        return self._load(self._start_delta() if self.manifest.continuing else None)

    def _start_delta(self) -> Delta | None:
        start = self.footing.start
        return composer(self.node).delta(start.release.adapter) if start and start.release.adapter else None

    def _load(self, delta: Delta | None) -> LoadedModel:
        base = base_folder(self.node.home, self.node.blobs, self.manifest.ground.base)
        deltas = composer(self.node).deltas(self.footing.chain)
        return load_model(base, [*deltas, *([delta] if delta else [])], self.manifest.precision)

    def _before(self) -> tuple[LoadedModel | None, Measured]:
        """The figures before, and the model if it was loaded and is still as it was."""
        file = self.folder / "before.json"
        if (known := read_measured(file)) is not None:
            return None, known
        start = self._start_delta()
        loaded = self._load(start)
        measured = self._measure(loaded, "score before")
        write_whole(file, measured.model_dump_json(indent=1).encode())
        return (None if start and not self.manifest.continuing else loaded), measured

    def _after(self, loaded: LoadedModel, trained: Trained) -> Measured:
        """The figures after; training has left the weights as they were, here the adapter is added to them."""
        file = self.folder / "after.json"
        if (known := read_measured(file)) is not None:
            return known
        start = self._start_delta()
        if start and self.manifest.continuing:  # the new adapter holds it
            add(loaded, start, by=-1.0)
        add(loaded, read_adapter(trained.file, trained.shape))
        measured = self._measure(loaded, "score after")
        write_whole(file, measured.model_dump_json(indent=1).encode())
        return measured

    def _measure(self, loaded: LoadedModel, stage: Stage) -> Measured:
        return measure(
            loaded,
            self.material,
            self.manifest.path,
            lambda done, total: self.on_progress(Progress(stage, done, total)),
        )


def read_measured(file: Path) -> Measured | None:
    """Figures that an earlier try left; None where there are none."""
    try:
        return Measured.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_whole(file: Path, data: bytes) -> None:
    """Write a small file so that after a kill it is there whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    sync_folder(file.parent)

"""A fine-tune once more from its manifest: the same rows, releases, plan and seed give the same adapter on one machine.

The repetition stands beside everything that is there: it makes no release, and its folder goes when it is done. A
repetition that was interrupted goes on like any run.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from node.context import Node
from node.datasets import read
from node.earlier import named_runs
from node.finetune import check_disk, failures
from node.footing import Footing, footing_on
from node.manifest import RunManifest
from node.preparation import FinetuneRequest, Prepared, plan_on
from node.run_lock import run_lock
from node.training import OnProgress, Training, ignore
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.tables import RunRow

MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Repeated:
    """What a repeated run came to; `expected` is the adapter of the run that the manifest is of, where it is known."""

    adapter: str
    expected: str | None


@dataclass(frozen=True, slots=True)
class Repetition:
    """A run that is about to be repeated. `differences`: what is not as it was, such as versions, in words."""

    node: Node
    manifest: RunManifest
    prepared: Prepared
    differences: tuple[str, ...]

    def run(self, on_progress: OnProgress = ignore) -> Repeated:
        """Train again and compare the adapters by digest.

        Raises LocalFailure for too little memory or disk, or another process at work on the path.
        """
        with run_lock(self.node.home, NodePath.parse(self.manifest.path)):
            if self.prepared.refusal is not None:
                raise self.prepared.refusal
            folder = self.node.home.runs / f"repeat-{self.prepared.manifest.run_id}"  # another for other versions
            with failures(folder):
                check_disk(self.node, self.prepared)
                folder.mkdir(mode=0o700, exist_ok=True)
                training = Training(
                    self.node, self.prepared.footing, self.manifest, self.prepared.material, folder, on_progress
                )
                trained = training.trained(training.fresh_model())
            shutil.rmtree(folder)
        with self.node.store.read() as session:
            row = session.get(RunRow, self.manifest.run_id)
        return Repeated(trained.sha256, row.adapter if row else None)


def read_manifest(file: Path) -> RunManifest:
    """The manifest in a file. Raises BadData."""
    try:
        with file.open("rb") as source:
            data = source.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BadData(f"cannot read {file}: {error.strerror}", "give the manifest.json of a run") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise BadData(f"{file} is larger than a run manifest can be", "give the manifest.json of a run")
    return RunManifest.from_bytes(data)


def prepare_repeat(node: Node, manifest: RunManifest, data: Path) -> Repetition:
    """Make ready to train again what a manifest describes.

    Raises BadData when the data or the releases are not those of the manifest, LocalFailure when its releases are not
    here.
    """
    dataset = read(data, manifest.data.format)
    if dataset.file.sha256 != manifest.data.sha256:
        raise BadData(
            f"{data} is not the file of the run: its SHA-256 is {dataset.file.sha256}, "
            f"that of the run's file {manifest.data.sha256}",
            f"give the file as it was, of {manifest.data.size_bytes:,} bytes; or train on this one: "
            f"node finetune {manifest.path} --data {data}",
        )
    continuing = manifest.continuing
    request = FinetuneRequest(
        data,
        manifest.data.format,
        manifest.train_plan,
        manifest.replay,
        score_rows=manifest.score_rows,
        continuing=continuing.method if continuing else None,
    )
    earlier = named_runs(node, [(one.run, one.sha256) for one in continuing.earlier]) if continuing else []
    as_then = replace(node, settings=node.settings.model_copy(update=_settings_of(manifest)))
    prepared = plan_on(as_then, _footing_of(node, manifest), dataset, request, [], earlier)
    return Repetition(as_then, manifest, prepared, tuple(manifest.differences(prepared.manifest)))


def _settings_of(manifest: RunManifest) -> dict[str, object]:
    """Sums are taken in another order on another number of threads; the bound of the rank is part of the outcome."""
    then: dict[str, object] = {"threads": manifest.machine.threads, "precision": manifest.precision}
    return then | ({"rank_budget": manifest.continuing.rank_bound} if manifest.continuing else {})


def _footing_of(node: Node, manifest: RunManifest) -> Footing:
    """The releases of the run. Raises LocalFailure when they are not here, BadData when they are others."""
    ground, path = manifest.ground, NodePath.parse(manifest.path)
    stands_on = ground.start or (ground.above.digest if ground.above else None)
    if stands_on is None:
        raise BadData("the manifest names no release that the run stands on", "give the manifest.json of a run")
    try:
        footing = footing_on(node, path, stands_on)
    except LocalFailure as error:
        of = f"{ground.above.path}@v{ground.above.version}" if ground.above and not ground.start else str(path)
        raise LocalFailure(
            f"the run of the manifest stands on a release of {of} that is not on this node: {stands_on}",
            "repeat it on the node that ran it" if ground.start else f"node pull {of}",
        ) from error
    if footing.ground() != ground:
        here = footing.ground()
        what = "another base" if here.base != ground.base else "other releases or anchors"
        raise BadData(
            f"the manifest names {what} than {footing.last.release.path}@v{footing.last.release.version}, "
            f"which it says the run stands on (base {ground.base} / {here.base})",
            "give the manifest.json of a run as it was written",
        )
    return footing

"""A fine-tune before its first step: rows read, footing found, manifest written, memory estimated. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.bases import base_folder
from node.context import Node
from node.datasets import Dataset, Format, preview, read
from node.earlier import EarlierRun, earlier_runs
from node.footing import Footing, find_footing, read_anchors
from node.manifest import Continuing, DataFacts, EarlierRows, RunManifest, package_versions, plan_as_json, this_machine
from node.material import Material, Rendered, gather, render, sample
from node.memory import MemoryEstimate, ModelShape, estimate, read_shape, require_fit
from node.models import composer
from recommender.hardware import free_bytes
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from sync.continual import Method
from sync.model import load_tokenizer, resolve_precision
from sync.tokens import Example
from sync.train import TrainPlan

SHOWN_EXAMPLES = 3
MAX_REPLAY = 0.9


@dataclass(frozen=True, slots=True)
class FinetuneRequest:
    """What a person asks for. `plan` None: the one that `default_plan` gives for the base."""

    data: Path
    format: Format | None = None
    plan: TrainPlan | None = None
    replay: float = 0.5  # share of the parent's anchors among the rows that training sees
    score_rows: int = 500  # held-out rows that are scored at most, of own rows and of anchors each
    dry_run: bool = False
    continuing: Method | None = None  # go on beside the adapter of the path; None: train that adapter itself further


@dataclass(frozen=True, slots=True)
class Prepared:
    """A fine-tune before its first step: what a dry run shows. `refusal`: why it would not start."""

    footing: Footing
    manifest: RunManifest
    material: Material
    examples: list[Rendered]
    memory: MemoryEstimate
    free_bytes: int
    refusal: LocalFailure | None
    notes: tuple[str, ...]


def default_plan(node: Node, path: NodePath) -> TrainPlan:
    """The plan for the base of a path: wide models take small steps.

    The law 5e-5 · 10 · (2000 / width)^0.781 is that of "LoRA Without Regret" (Schulman et al. 2025, Llama), kept below
    what was tried on small bases.
    """
    shape = _shape(node, find_footing(node, path))
    plan = TrainPlan()
    return replace(plan, learning_rate=float(f"{min(plan.learning_rate, 5e-4 * (2000 / shape.hidden) ** 0.781):.2g}"))


def prepare(node: Node, path: NodePath, request: FinetuneRequest) -> Prepared:
    """Read the rows, find what to stand on, and plan.

    Raises BadData for rows or options that cannot be used, LocalFailure when there is nothing to start from. Too
    little memory is told in the result.
    """
    _check_request(node, path, request)
    dataset = read(request.data, request.format)
    footing = find_footing(node, path)
    plan, earlier = request.plan or default_plan(node, path), earlier_runs(node, path)
    if request.continuing:
        notes = _beside(node, request.continuing, plan, footing, earlier)
    else:
        plan, notes = _further(plan, footing)
        if footing.start and earlier:
            notes.append("rows of earlier runs are neither rehearsed nor scored (--continue)")
    return plan_on(node, footing, dataset, replace(request, plan=plan), notes, earlier if request.continuing else [])


def _check_request(node: Node, path: NodePath, request: FinetuneRequest) -> None:
    if not 0 <= request.replay <= MAX_REPLAY:
        raise BadData(f"a replay share of {request.replay:g} is not between 0 and {MAX_REPLAY}", "the usual is 0.5")
    if request.score_rows < 1:
        raise BadData("at least one held-out row is scored", "the usual is 500")
    if node.paths and not any(path.is_within(place) for place in node.paths):
        named = ",".join(map(str, node.paths))
        raise BadData(f"this node is responsible for {named}, not for {path}", f"node config set paths {named},{path}")


def _beside(node: Node, method: Method, plan: TrainPlan, footing: Footing, earlier: Sequence[EarlierRun]) -> list[str]:
    """What is worth knowing of going on. Raises LocalFailure where there is nothing to go on from."""
    adapter = footing.start.release.adapter if footing.start else None
    if footing.start is None or adapter is None:
        raise LocalFailure(
            f"{footing.path} has no adapter of its own to go on from", "leave --continue out: this is its first run"
        )
    here, bound = footing.start.release, node.settings.rank_budget
    notes = [f"{here.path}@v{here.version} is continued by {method}: rank {plan.rank} beside its {adapter.shape.rank}"]
    if plan.rank + adapter.shape.rank > bound:
        notes.append(f"both together are recompressed to rank {bound} (rank_budget)")
    if not earlier:
        notes.append("no rows of earlier runs are here: what they taught is neither rehearsed nor scored")
    return notes


def _further(plan: TrainPlan, footing: Footing) -> tuple[TrainPlan, list[str]]:
    """The plan with room for the adapter that it goes on from."""
    adapter = footing.start.release.adapter if footing.start else None
    if footing.start is None or adapter is None:
        return plan, []
    rank, targets = max(plan.rank, adapter.shape.rank), tuple(dict.fromkeys((*plan.targets, *adapter.shape.targets)))
    here = footing.start.release
    notes = [f"{here.path}@v{here.version} is trained further"]
    if rank > plan.rank:
        notes.append(f"rank {rank} instead of {plan.rank}: its adapter has that")
    return replace(plan, rank=rank, alpha=plan.alpha * rank / plan.rank, targets=targets), notes


def plan_on(
    node: Node,
    footing: Footing,
    dataset: Dataset,
    request: FinetuneRequest,
    notes: list[str],
    earlier: Sequence[EarlierRun] = (),
) -> Prepared:
    """The preparation on a given footing, with a given dataset, plan and earlier runs."""
    plan = request.plan or TrainPlan()
    path = str(footing.path)
    material = gather(
        dataset.rows,
        path,
        read_anchors(node, footing),
        replay=request.replay,
        score_rows=request.score_rows,
        seed=plan.seed,
        earlier=earlier,
        rehearse_earlier=request.continuing == "replay",
    )
    manifest = _manifest(node, footing, dataset, replace(request, plan=plan), material)
    tokenizer = load_tokenizer(base_folder(node.home, node.blobs, manifest.ground.base))
    share, cut = sample(tokenizer, material.train, plan.max_tokens)
    if plan.prompt_loss:
        share = 1.0  # logits stand on prompts too
    if cut:
        notes = [*notes, f"{cut:.0%} of the rows are longer than {plan.max_tokens} tokens and are cut (--max-tokens)"]
    shape, free = _shape(node, footing), free_bytes()
    _check_targets(shape, plan)
    return Prepared(
        footing=footing,
        manifest=manifest,
        material=material,
        examples=preview(
            dataset.rows, SHOWN_EXAMPLES, lambda row: render(tokenizer, Example(row, path), plan.max_tokens)
        ),
        memory=estimate(shape, plan, manifest.precision, share),
        free_bytes=free,
        refusal=_refusal(shape, plan, manifest.precision, share, free),
        notes=(*dataset.notes(), *material.notes, *notes),
    )


def _manifest(
    node: Node, footing: Footing, dataset: Dataset, request: FinetuneRequest, material: Material
) -> RunManifest:
    composer(node)  # sets the threads, which the manifest names
    file = dataset.file
    return RunManifest(
        path=str(footing.path),
        data=DataFacts(sha256=file.sha256, size_bytes=file.size_bytes, format=dataset.format, rows=material.own),
        ground=footing.ground(),
        continuing=_continuing(node, request.continuing, material) if request.continuing else None,
        replay=request.replay,
        replay_rows=material.replay_rows,
        score_rows=request.score_rows,
        plan=plan_as_json(request.plan or TrainPlan()),
        precision=resolve_precision(node.settings.precision),
        packages=package_versions(),
        machine=this_machine(),
    )


def _continuing(node: Node, method: Method, material: Material) -> Continuing:
    return Continuing(
        method=method,
        rank_bound=node.settings.rank_budget,
        earlier=tuple(EarlierRows(run=run.run, sha256=run.digest) for run in material.earlier),
    )


def _shape(node: Node, footing: Footing) -> ModelShape:
    return read_shape(base_folder(node.home, node.blobs, footing.last.release.base))


def _check_targets(shape: ModelShape, plan: TrainPlan) -> None:
    known = sorted({name.rsplit(".", 1)[-1] for name, _, _ in shape.modules})
    if not set(plan.targets) & set(known):
        raise BadData(
            f"this base has no module named {', '.join(plan.targets)}", f"name some of: {', '.join(known)} (--targets)"
        )


def _refusal(shape: ModelShape, plan: TrainPlan, precision: str, share: float, free: int) -> LocalFailure | None:
    try:
        require_fit(shape, plan, precision, share, free)
    except LocalFailure as refusal:
        return refusal
    return None

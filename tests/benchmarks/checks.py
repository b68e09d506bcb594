"""What an update costs its parent before it changes anything, stage by stage, by the size of its adapter.

Adapters hold random numbers; their shapes are those of real bases, so that the number of tensors is real too. Every
check must pass: one that stops early would look quick.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from registry.documents import (
    Adapter,
    AdapterShape,
    CheckResult,
    Evaluation,
    File,
    ReleasePin,
    Update,
    open_document,
    seal_document,
)
from registry.keys import PrivateKey
from registry.paths import NodePath
from sync.checks.envelope import Limits, Pinned, Standing, check_envelope
from sync.checks.expected import expected_adapter_tensors
from sync.checks.files import check_files
from sync.checks.size import check_size, module_norms
from sync.cohort import MAX_HISTORY
from sync.delta import write_tensors
from sync.train import ALL_LINEAR
from tests.benchmarks.behaviour import measure_behaviour
from tests.benchmarks.rounds import Figure, Result, Scale, interleaved, milliseconds, seconds

ROUNDS = 5
NORMS = "norms of one earlier update"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PATH = "en/finance/cards"
BUNDLED = {  # the bundled base
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_hidden_layers": 5,
}
SMOLLM2 = {  # SmolLM2-135M
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "num_hidden_layers": 30,
}
ADAPTERS: tuple[tuple[str, dict[str, int], int], ...] = (  # about how large, over which base, rank
    ("0.5 MB", BUNDLED, 5),
    ("5 MB", BUNDLED, 51),
    ("50 MB", SMOLLM2, 41),
)


@dataclass(frozen=True, slots=True)
class Case:
    """An update as it came in, and what its parent knows."""

    file: Path
    base: dict[str, int]
    update: Update
    envelope: bytes
    child: PrivateKey
    standing: Standing

    def envelope_verified(self) -> None:
        """The signature, then the words."""
        open_document(self.envelope, Update, [self.child.public])

    def stage_1(self) -> None:
        """What the words say."""
        must_pass(check_envelope(self.update, self.standing, Limits()))

    def stage_2(self) -> None:
        """What the file is."""
        must_pass(check_files(self.file, self.update.adapter, self.base))

    def stage_3(self) -> None:
        """How large the change is: its norms, and how they stand beside those of other updates."""
        norms = self.norms()
        must_pass(check_size(norms, dict.fromkeys(norms, 100.0), [norms] * MAX_HISTORY))

    def norms(self) -> dict[str, float]:
        """The norms of one update; a parent takes those of up to MAX_HISTORY earlier ones as well."""
        return module_norms(self.file, self.update.adapter.shape)


def must_pass(results: Sequence[CheckResult]) -> None:
    """Raises RuntimeError where a check refused: its time would be no measure."""
    for result in results:
        if not result.passed:
            raise RuntimeError(f"{result.name}: {result.reason}")


def make_case(folder: Path, base: dict[str, int], rank: int) -> Case:
    """Write a random adapter and sign an update with it."""
    shape = AdapterShape(rank=rank, alpha=float(rank), targets=ALL_LINEAR, dtype="F32")
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(size, generator=random) * 0.01 for name, size in expected_adapter_tensors(base, shape).items()
    }
    file = folder / f"{len(tensors)}-{rank}.safetensors"
    write_tensors(tensors, file, {"format": "pt"})
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    adapter = Adapter(file=File(name=file.name, size=file.stat().st_size, sha256=digest), shape=shape)
    child, parent = PrivateKey.generate(), PrivateKey.generate()
    pin = ReleasePin(path="en/finance", version=1, digest="1" * 64)
    update = _update(child, parent, pin, adapter)
    standing = Standing(
        now=NOW,
        audience=parent.public.id,
        paths=(NodePath.parse(pin.path),),
        enrolled=(NodePath.parse(PATH),),
        pinned=Pinned(NodePath.parse(pin.path), pin.version, update.base, pin.version),
        highest=0,
    )
    return Case(file, base, update, seal_document(update, child), child, standing)


def _update(child: PrivateKey, parent: PrivateKey, pin: ReleasePin, adapter: Adapter) -> Update:
    metrics = {"exact_match": 0.9, "exact_match_before": 0.1}
    return Update(
        path=PATH,
        issuer=child.public.id,
        audience=parent.public.id,
        base="2" * 64,
        release=pin,
        sequence=1,
        created=NOW,
        expires=NOW + timedelta(days=30),
        adapter=adapter,
        claims=(Evaluation(dataset="own", split="test", rows=200, metrics=metrics, path=PATH),),
        run="3" * 64,
        transfer=None,
        transfer_rows=0,
    )


def run(scale: Scale) -> Result:
    """Milliseconds a stage by size of adapter; then stage 7 on the bundled base, once."""
    figures: dict[str, Figure] = {}
    sizes: dict[str, int] = {}
    for size, base, rank in ADAPTERS[: 1 if scale.smallest else None]:
        with tempfile.TemporaryDirectory() as folder:
            case = make_case(Path(folder), base, rank)
            sizes[size] = case.update.adapter.file.size
            stages = {
                "envelope": case.envelope_verified,
                "stage 1": case.stage_1,
                "stage 2": case.stage_2,
                "stage 3": case.stage_3,
                NORMS: case.norms,
            }
            for stage in stages.values():
                stage()
            contenders = {name: lambda stage=stage: seconds(stage) for name, stage in stages.items()}
            found = interleaved(contenders, scale.rounds or ROUNDS)
        figures |= {f"{size}, {stage}": milliseconds(times_s) for stage, times_s in found.items()}
        together = zip(*(found[stage] for stage in stages if stage != NORMS), strict=True)
        figures[f"{size}, envelope and stages 1 to 3"] = milliseconds([sum(one) for one in together])
    setting: dict[str, Any] = {"adapter_bytes": sizes, "updates_compared_with": MAX_HISTORY}
    setting["threads"] = torch.get_num_threads()
    behaviour, figures_of_stage_7 = measure_behaviour(few=scale.smallest)
    return Result(setting | behaviour, figures | figures_of_stage_7)

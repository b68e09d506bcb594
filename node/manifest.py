"""The run manifest: everything that decides what a fine-tune becomes, and nothing that changes from try to try.

The same request on the same machine gives the same manifest, whose digest names the run: so a killed run is found
again, and a finished one can be repeated to the same adapter. The manifest stays on this machine; of it, only the
digest goes into an update.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.datasets import Format
from registry.documents import ReleasePin
from registry.errors import BadData
from sync.continual import Method
from sync.train import TrainPlan

PACKAGES = ("banyan-node", "torch", "transformers", "tokenizers", "peft", "safetensors")
RUN_ID_CHARS = 16
CPU_FACTS = Path("/proc/cpuinfo")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataFacts(_Part):
    """The data file by digest, and how its rows were divided."""

    sha256: str
    size_bytes: int
    format: Format
    rows: dict[Literal["train", "validation", "test"], int]


class Ground(_Part):
    """What the adapter stands on: a base, the pinned release above, the release at the path that is continued."""

    base: str
    above: ReleasePin | None
    start: str | None  # digest of the release whose adapter the run goes on from
    anchors: str | None  # digest of the old knowledge that is rehearsed


class EarlierRows(_Part):
    """The own rows of an earlier run, which stay in its folder, by digest."""

    run: str
    sha256: str


class Continuing(_Part):
    """How a run goes on from the adapter of its ground: new factors beside it, both together of bounded rank."""

    method: Method
    rank_bound: int
    earlier: tuple[EarlierRows, ...]  # scored before and after, and rehearsed where the method does that


class Machine(_Part):
    """What the numbers depend on besides the program."""

    system: str
    processor: str
    arithmetic: str  # the widest vector instructions that torch uses
    device: str
    threads: int

    def __str__(self) -> str:
        """One line for tables."""
        return f"{self.processor} ({self.arithmetic}), {self.threads} threads, {self.device}, {self.system}"


class RunManifest(_Part):
    """One fine-tune, before it runs."""

    kind: Literal["finetune"] = "finetune"
    path: str
    data: DataFacts
    ground: Ground
    continuing: Annotated[Continuing | None, Field(exclude_if=lambda value: value is None)] = None
    replay: Annotated[float, Field(ge=0, lt=1)]  # share of the old knowledge among the rows that are seen
    replay_rows: int
    score_rows: int  # held-out rows that are scored at most
    plan: dict[str, Any]
    precision: Literal["bf16", "fp32"]
    packages: dict[str, str]
    machine: Machine

    def to_bytes(self) -> bytes:
        """The one byte form."""
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a manifest. Raises BadData."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BadData(f"not a run manifest: {where}: {first['msg']}", "give the manifest.json of a run") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the byte form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return self.digest[:RUN_ID_CHARS]

    @property
    def train_plan(self) -> TrainPlan:
        """The plan as the trainer takes it. Raises BadData when it is another version's."""
        try:
            return TrainPlan(**{**self.plan, "targets": tuple(self.plan["targets"])})
        except (TypeError, KeyError) as error:
            raise BadData(
                f"the plan of the manifest is not one of this version: {error}",
                "repeat it with the version that made it",
            ) from None

    def differences(self, other: RunManifest) -> list[str]:
        """What is not the same in another manifest, in words."""
        mine, others = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{name}: {mine.get(name)} / {others.get(name)}"
            for name in sorted(mine.keys() | others.keys())
            if mine.get(name) != others.get(name)
        ]


def plan_as_json(plan: TrainPlan) -> dict[str, Any]:
    """The plan as it stands in the manifest."""
    return {**asdict(plan), "targets": list(plan.targets)}


def package_versions() -> dict[str, str]:
    """The versions of what computes, Python's own among them."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a source folder
            versions[name] = "not installed"
    return versions


def this_machine() -> Machine:
    """The machine as the run sees it."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        arithmetic=torch.backends.cpu.get_cpu_capability(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
    )


def _processor() -> str:
    if CPU_FACTS.is_file():
        with CPU_FACTS.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or f"{os.cpu_count()} cores"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else str(key))
    return flat

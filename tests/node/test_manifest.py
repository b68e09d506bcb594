from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node.manifest import DataFacts, Ground, RunManifest, package_versions, plan_as_json, this_machine
from registry.errors import BadData
from sync.train import TrainPlan

PLAN = TrainPlan(rank=8, learning_rate=1e-3)


def manifest(**changes: Any) -> RunManifest:
    fields: dict[str, Any] = {
        "path": "en/health",
        "data": DataFacts(
            sha256="a" * 64, size_bytes=9, format="messages", rows={"train": 8, "validation": 1, "test": 0}
        ),
        "ground": Ground(base="b" * 64, above=None, start="c" * 64, anchors=None),
        "replay": 0.5,
        "replay_rows": 8,
        "score_rows": 100,
        "plan": plan_as_json(PLAN),
        "precision": "fp32",
        "packages": package_versions(),
        "machine": this_machine(),
    }
    return RunManifest(**{**fields, **changes})


def test_the_same_request_has_the_same_run() -> None:
    assert manifest().digest == manifest().digest
    assert manifest().run_id == manifest().digest[:16]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "en/law"},
        {"replay": 0.4},
        {"plan": plan_as_json(replace(PLAN, seed=2))},
        {"precision": "bf16"},
        {"packages": {"torch": "1"}},
        {"machine": this_machine().model_copy(update={"threads": 99})},
    ],
)
def test_whatever_changes_the_result_changes_the_run(changes: dict[str, Any]) -> None:
    other = manifest(**changes)
    assert other.run_id != manifest().run_id
    assert [line.split(":")[0].split(".")[0] for line in manifest().differences(other)][:1] == list(changes)


def test_a_manifest_is_read_back_as_it_was() -> None:
    again = RunManifest.from_bytes(manifest().to_bytes())
    assert again == manifest()
    assert again.to_bytes() == manifest().to_bytes()
    assert again.train_plan == PLAN
    assert manifest().differences(again) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"path": 3}', b"\xff"])
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BadData, match="not a run manifest"):
        RunManifest.from_bytes(data)


def test_a_plan_of_another_version_is_refused() -> None:
    with pytest.raises(BadData, match="not one of this version"):
        _ = manifest(plan={**plan_as_json(PLAN), "momentum": 0.9}).train_plan


def test_the_machine_and_the_versions_are_told() -> None:
    machine = this_machine()
    assert machine.threads >= 1
    assert machine.processor in str(machine)
    assert {"python", "torch", "transformers", "peft"} <= package_versions().keys()

"""The homes that `tests.daemon_tree` begins with: a parent of the toy model, and two children that have learned."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from node.config_file import edit_config
from node.context import Node
from node.pull import pull
from node.validation import store_validation
from registry.documents import BaseManifest
from registry.paths import NodePath
from registry.rows import write_rows
from registry.tables import RunRow
from sync.delta import Delta, scaled
from sync.model import load_model
from tests.processes import NodeProcess
from tests.toy import KNOWN, PLAN, held_out, learn, make_base, rows
from tests.toy_tree import TAUGHT, head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node, utc_now

QUICK = {  # a cycle of a second or two
    "threads": 1,
    "precision": "fp32",
    "rank_budget": 8,
    "consolidate_epochs": 1,
    "consolidate_learning_rate": 1.5e-2,
    "rebase_epochs": 2,
    "anchor_rows": 40,
    "policy_every": 1,
    "triggers_max_collapse": 1.0,  # a toy model answers any strange word with one of its ten answers
    "poll_interval_s": 0.1,
    "log_checkpoint_interval_s": 0.0,
    "request_timeout_s": 10.0,
    "gate_max_loss_points": 100.0,  # what is learned is not the question here
    "behaviour_max_loss_points": 100.0,
    "release_max_loss_points": 100.0,
    "gate_min_gain_kept": 0.0,
    "serve": "off",
    "drain_s": 0.0,
}
HALF_LEARNED = 0.4  # of its adapter the sibling has, so that it gains by following; the child will stay
SENT = 10  # rows that travel with the update; one of them is held back by the parent


def make_homes(folder: Path, ports: dict[str, int]) -> None:
    """The homes below `folder/fresh`, and the rows that the child sends."""
    torch.set_num_threads(1)
    base, fresh = make_base(folder / "base"), folder / "fresh"
    loaded = load_model(base, [], "fp32")
    parent_home = folder / "parent"
    parent = make_parent(parent_home, base, "en", anchors=rows(KNOWN, range(2)))
    edit_config(parent.home.config, QUICK)
    store_validation(parent.home, NodePath.parse("en"), held_out(KNOWN)[:7])
    parent.close()
    served = NodeProcess.start(parent_home, ports["parent"])
    for name, path in (("child", "en/shapes"), ("sibling", "en/tools")):
        delta = learn(loaded, TAUGHT[path], path, folder / "fit" / name, PLAN)
        delta = scaled(delta, HALF_LEARNED) if name == "sibling" else delta
        _make_child(folder / name, parent_home, served.url, path, delta)
    served.kill()
    write_rows(rows(TAUGHT["en/shapes"], range(20, 24))[:SENT], folder / "transfer.jsonl")
    fresh.mkdir()
    for name in ("parent", "child", "sibling"):
        shutil.copytree(folder / name, fresh / name)


def _make_child(home: Path, parent_home: Path, url: str, path: str, delta: Delta) -> None:
    """A child that is enrolled, has pulled its parent's release and has a release of its own over it."""
    child = make_node(home, path)
    parent = make_node(parent_home, "en")
    enrol_child(child, parent, url, path)
    parent.close()
    pull(child, None, utc_now())
    above = head_of(child, "en")
    base = BaseManifest.from_bytes(child.blobs.read(above.release.base, 1 << 20))
    put_toy_release(child, path, base, above=above.pin, delta=delta, anchors=rows(KNOWN, range(2)))
    put_run(child, path, TAUGHT[path])
    edit_config(child.home.config, {**QUICK, "parent_url": url})
    child.close()


def put_run(child: Node, path: str, table: Mapping[str, str]) -> None:
    """What the fine-tune left: its record, and its rows."""
    release, now = head_of(child, path).release, utc_now()
    assert release.adapter is not None
    manifest = child.blobs.put_bytes(b'{"run":"of ' + path.encode() + b'"}')
    run = RunRow(
        id=manifest[:16], kind="finetune", path=path, state="done", manifest=manifest,
        adapter=release.adapter.file.sha256, created=now, changed=now,
    )  # fmt: skip
    with child.store.transaction() as session:
        session.add(run)
    (folder := child.home.runs / run.id).mkdir()
    write_rows(rows(table, range(4)), folder / "train.jsonl")
    write_rows(held_out(table)[:6], folder / "test.jsonl")

"""A full disk: every command that writes says so, leaves nothing half there, and goes on when there is room."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.api.app import create_app
from node.cli import main
from node.context import Node, opened_node
from node.settings import load_settings
from node.trust import trusted_keys
from registry.store import func, select
from registry.tables import DecisionRow, SequenceRow, UpdateRow
from sync.pull import fetch_release
from tests.killed_work import damages
from tests.node.conftest import anchor_rows, own_rows, put_anchored
from tests.world import enrol_child, make_node, own_work, put_base, put_release, snapshot, utc_now

CARDS = "en/cards"
ADAPTER = bytes(range(256)) * 8000  # 2 MB
SMALL = ("--rank", "4", "--epochs", "1", "--batch-tokens", "512", "--score-rows", "4")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@dataclass(frozen=True)
class Disk:
    """A file system of 64 MB in memory."""

    root: Path

    def fill(self, free: int) -> None:
        """Leave `free` bytes and take the rest."""
        with (self.root / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(1 << 16)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
            filler.truncate(max(0, filler.tell() - free))

    def free(self) -> None:
        (self.root / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(root)], check=False, timeout=30, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode()}")
    yield Disk(root)
    subprocess.run(["umount", "--lazy", str(root)], check=True, timeout=30)


def call(home: Path, *words: str | Path) -> tuple[int, dict[str, Any]]:
    command, *rest = map(str, words)
    done = CliRunner().invoke(main, [command, "--home", str(home), "--json", *rest])
    return done.exit_code, json.loads(done.stdout)


def shown(home: Path) -> Any:
    """Everything that a home says happened."""
    with opened_node(load_settings({"home": home})) as node:
        with node.store.read() as session:
            updates = sorted((row.digest, row.state) for row in session.scalars(select(UpdateRow)))
            used = [(row.path, row.highest) for row in session.scalars(select(SequenceRow))]
            decisions = session.scalar(select(func.count()).select_from(DecisionRow))
        return snapshot(node), updates, used, decisions


@dataclass(frozen=True)
class Family:
    """A parent at en, whose child at en/cards stands on the parent's release."""

    parent: Node
    url: str
    child: Path

    @classmethod
    def make(cls, parent: Path, child: Path, tiny_base: Path, serve: Callable[[Any], str], *, pulled: bool) -> Family:
        above = make_node(parent, "en")
        pin = put_release(above, "en", put_base(above, {file.name: file.read_bytes() for file in tiny_base.iterdir()}))
        url = serve(create_app(above))
        below = make_node(child, CARDS, threads=1, precision="fp32")
        enrol_child(below, above, url, CARDS)
        if pulled:
            trusted = trusted_keys(below, utc_now())
            fetch_release(below.peer(url), pin, trusted=trusted, store=below.store, blobs=below.blobs, now=utc_now())
            own_work(below, pin, CARDS, ADAPTER)
        below.close()
        return cls(above, url, child)


@pytest.mark.parametrize("free", [0, 40_000, 120_000])
@pytest.mark.parametrize("command", ["clone", "pull"])
def test_what_is_fetched(
    command: str, free: int, disk: Disk, tmp_path: Path, tiny_base: Path, serve: Callable[[Any], str]
) -> None:
    family = Family.make(tmp_path / "parent", disk.root / "child", tiny_base, serve, pulled=False)
    words = ("clone", "en", "--out", disk.root / "out") if command == "clone" else ("pull", "en")
    refused_and_goes_on(disk, family.child, free, *words)
    if command == "clone":
        assert (disk.root / "out" / "lineage.json").is_file()
    family.parent.close()


@pytest.mark.parametrize("free", [0, 40_000, 120_000])
def test_an_import(free: int, disk: Disk, tiny_base: Path) -> None:
    make_node(disk.root / "home", "en").close()
    refused_and_goes_on(disk, disk.root / "home", free, "import", tiny_base, "--path", "en", "--licence", "MIT")


@pytest.mark.parametrize("free", [0, 20_000, 100_000])
def test_a_fine_tune(free: int, disk: Disk, tmp_path: Path, tiny_base: Path) -> None:
    home, rows = disk.root / "home", tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in own_rows(40)))
    node = make_node(home, "en", threads=1, precision="fp32")
    base = put_base(node, {file.name: file.read_bytes() for file in tiny_base.iterdir()})
    put_anchored(node, "en", base, None, anchor_rows(60))
    node.close()
    refused_and_goes_on(disk, home, free, "finetune", "en/numbers", "--data", rows, *SMALL)


@pytest.mark.parametrize("free", [0, 8_000])
def test_a_publication(free: int, disk: Disk, tmp_path: Path, tiny_base: Path, serve: Callable[[Any], str]) -> None:
    """No number is used up by an update that could not be stored."""
    family = Family.make(tmp_path / "parent", disk.root / "child", tiny_base, serve, pulled=True)
    refused_and_goes_on(disk, family.child, free, "publish", CARDS)
    assert shown(family.child)[2] == [(CARDS, 1)]
    family.parent.close()


@pytest.mark.parametrize("free", [0, 100_000, 1_200_000])
def test_a_parent_s_inbox(free: int, disk: Disk, tmp_path: Path, tiny_base: Path, serve: Callable[[Any], str]) -> None:
    """The sender is told that it is the parent's fault, and the same bytes go when there is room."""
    family = Family.make(disk.root / "parent", tmp_path / "child", tiny_base, serve, pulled=True)
    disk.fill(free)
    code, refused = call(family.child, "publish", CARDS)
    assert code == 4, refused
    assert family.url in refused["error"]["message"]
    assert refused["error"]["hint"]
    assert damages(disk.root / "parent") == []
    assert shown(disk.root / "parent")[1] in ([], [(shown(family.child)[1][0][0], "received")])
    disk.free()
    code, done = call(family.child, "publish", CARDS)
    assert (code, done["state"], done["new"], done["sequence"]) == (0, "received", False, 1), done
    assert family.parent.blobs.read(done["sent"]["files"][0]["sha256"], 1 << 22) == ADAPTER
    family.parent.close()


def refused_and_goes_on(disk: Disk, home: Path, free: int, *words: str | Path) -> None:
    """The command ends with what is full and the next step, leaves what was, and is done once there is room."""
    before = shown(home)
    disk.fill(free)
    code, refused = call(home, *words)
    assert code == 4, refused
    assert "free" in refused["error"]["message"] + refused["error"]["hint"], refused
    assert "space" in refused["error"]["message"] + refused["error"]["hint"], refused
    disk.free()
    assert shown(home) == before
    assert damages(home) == []
    assert not [file.name for file in disk.root.iterdir() if file.name.endswith(".partial")]
    code, done = call(home, *words)
    assert code == 0, done
    assert damages(home) == []

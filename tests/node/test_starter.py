from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node import starter
from node.context import Node
from node.models import load
from node.starter import MODEL_LICENCE, STARTER_PATHS, install_starter_tree
from node.validation import validation_rows
from registry.cards import parse_card
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows, write_rows
from registry.store import select
from registry.tables import HeadRow
from sync.chain import Link, stored_chain
from sync.score import evaluate
from tests.toy import KNOWN, held_out, rows
from tests.toy_tree import SETTINGS
from tests.world import make_node, snapshot

MASTER = NodePath.parse("master")
HIDDEN = held_out(KNOWN)


@pytest.fixture(autouse=True)
def bundled(toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What comes with the program, in small."""
    folder = tmp_path / "bundled"
    shutil.copytree(toy_base, folder / "model")
    (folder / "model" / "README.md").write_text("---\nlanguage: [en, de]\nlicense: mit\n---\n\n# toy\n")
    write_rows(rows(KNOWN), folder / "anchors.jsonl")
    write_rows(HIDDEN, folder / "validation.jsonl")
    monkeypatch.setattr(starter, "BUNDLED", folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Node]:
    with closing(make_node(tmp_path / "home", "master", **SETTINGS)) as node:
        yield node


def test_a_node_without_a_parent_becomes_the_root_of_a_tree(root: Node) -> None:
    made = install_starter_tree(root)
    assert [str(ref) for ref in made] == [f"{path}@v1" for path in STARTER_PATHS]
    _, heads = snapshot(root)
    assert set(heads) == set(STARTER_PATHS)
    chain = stored_chain(root.store, root.blobs, heads["en/finance/cards"])
    assert [link.release.path for link in chain] == ["master", "en", "en/finance", "en/finance/cards"]
    assert {link.release.version for link in chain} == {1}
    assert {link.signer for link in chain} == {root.key.public}
    assert chain[0].release.above is None
    assert len({link.release.base for link in chain}) == 1
    assert root.store.check_integrity() == []
    assert root.blobs.check_integrity() == []


def test_every_place_has_the_anchors_and_a_card(root: Node) -> None:
    install_starter_tree(root)
    _, heads = snapshot(root)
    for path, languages in (("master", ("en", "de")), ("en/travel", ("en",)), ("de/law", ("de",))):
        release = stored_chain(root.store, root.blobs, heads[path])[-1].release
        assert release.anchors is not None
        assert read_rows(root.blobs.open_verified(release.anchors.sha256), 1 << 20) == rows(KNOWN)
        card = parse_card(root.blobs.read(release.card.sha256, 1 << 20).decode())
        assert (card.languages, card.licence) == (languages, MODEL_LICENCE)


def test_the_models_answer_and_the_hidden_rows_are_there(root: Node) -> None:
    install_starter_tree(root)
    _, loaded = load(root, Ref.parse("en/finance"))
    assert evaluate(loaded, HIDDEN, "en/finance").exact_match > 0.8
    assert validation_rows(root.home, NodePath.parse("en/finance")) == HIDDEN


def test_installing_again_changes_nothing(root: Node) -> None:
    install_starter_tree(root)
    before = snapshot(root)
    (root.home.validation / "master.jsonl").write_text('{"input":"mine","output":"yes"}\n')
    assert install_starter_tree(root) == []
    assert snapshot(root) == before
    assert validation_rows(root.home, MASTER) == [Row("mine", "yes")]


@pytest.mark.parametrize("settings", [{"parent_url": "http://127.0.0.1:1"}, {"paths": ["en"]}])
def test_who_is_not_the_root_takes_the_files_of_the_base_only(settings: dict[str, Any], tmp_path: Path) -> None:
    paths = settings.pop("paths", ["master"])
    with closing(make_node(tmp_path / "other", *paths, **SETTINGS, **settings)) as node:
        assert install_starter_tree(node) == []
        assert snapshot(node) == (set(), {})
        [base] = node.home.bases.iterdir()
        assert (base / "model.safetensors").exists()
        assert list(node.home.validation.iterdir()) == []


def test_a_tree_that_was_begun_is_not_visible_and_is_made_by_the_next_call(
    root: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[object] = []

    class Stopped(BaseException):
        """Stands for the end of the process: nothing of ours catches it."""

    def dying(document: Any, key: Any) -> Link:
        signed.append(document)
        if len(signed) == 5:
            raise Stopped
        return seal(document, key)

    seal = starter.signed_link
    with monkeypatch.context() as changed:
        changed.setattr(starter, "signed_link", dying)
        with pytest.raises(Stopped):
            install_starter_tree(root)
    assert snapshot(root) == (set(), {})
    assert len(install_starter_tree(root)) == len(STARTER_PATHS)
    with root.store.read() as session:
        assert len(session.scalars(select(HeadRow)).all()) == len(STARTER_PATHS)


def test_what_the_program_really_brings_along_is_whole() -> None:
    """The rows are checked strictly when they are read; the model's own files are the test of the build."""
    folder = Path(starter.__file__).parent / "bundled"
    if not (folder / "anchors.jsonl").exists():
        pytest.skip("the bundled base is not built here")
    anchors = {row.input for row in read_rows(folder / "anchors.jsonl", starter.MAX_ROWS_BYTES)}
    hidden = {row.input for row in read_rows(folder / "validation.jsonl", starter.MAX_ROWS_BYTES)}
    assert len(anchors) > 100
    assert len(hidden) > 100
    assert not anchors & hidden

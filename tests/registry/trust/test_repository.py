"""What a node publishes: made once, renewed in time, written whole, signed by the keys that its root names."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.trust import files, repository
from registry.trust.client import Client, begin, in_our_words
from registry.trust.files import locked
from registry.trust.keyring import Keyring
from registry.trust.repository import KEPT_VERSIONS, Repository, Target
from registry.trust.roles import Lives, keys_of, replace_keys
from tests.registry.trust.site import DAY, NOW, URL

LIVES = Lives(root=365 * DAY, metadata=30 * DAY, timestamp=DAY)
FIRST, SECOND = {"en/v1": Target(9, "1" * 64)}, {"en/v1": Target(9, "1" * 64), "en/v2": Target(10, "2" * 64)}


class Folder(FetcherInterface):
    """The repository as a web server would give it away."""

    def __init__(self, place: Repository) -> None:
        self.place = place.folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        file = self.place / url.removeprefix(f"{URL}/")
        if file.name == "root.json":
            file = max(self.place.glob("*.root.json"), key=lambda one: int(one.name.partition(".")[0]))
        if not file.exists():
            raise DownloadHTTPError("not here", 404)
        yield file.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Repository:
    ring = Keyring(tmp_path / "keys")
    ring.folder.mkdir(mode=0o700)
    return Repository(tmp_path / "repository", ring, ring.made(ring.file("targets")), LIVES)


def follow(place: Repository, folder: Path, now: datetime = NOW) -> Client:
    with locked(folder), in_our_words("the releases"):
        begin(folder, URL, Folder(place), place.node_key.public)
        client = Client(folder, URL, Folder(place), now=now)
        client.refresh()
    return client


def names(place: Repository) -> set[str]:
    return {file.name for file in place.folder.iterdir() if not file.name.startswith(".")}


def test_it_is_made_at_its_first_use_and_then_only_when_something_changed(place: Repository, tmp_path: Path) -> None:
    """F1, F12."""
    due = place.publish(FIRST, NOW)
    assert due == NOW + DAY / 2
    made = {file: file.stat().st_mtime_ns for file in place.folder.iterdir()}
    assert names(place) == {"1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"}
    assert place.publish(FIRST, NOW + timedelta(hours=11)) == due
    assert {file: file.stat().st_mtime_ns for file in place.folder.iterdir()} == made
    client = follow(place, tmp_path / "child")
    assert {name: one.hashes["sha256"] for name, one in client.targets.items()} == {"en/v1": "1" * 64}
    place.publish(SECOND, NOW)
    assert follow(place, tmp_path / "child").targets.keys() == SECOND.keys()


@pytest.mark.parametrize(
    ("after", "new"),
    [
        (timedelta(hours=13), {"timestamp.json"}),
        (16 * DAY, {"2.targets.json", "2.snapshot.json"}),
        (190 * DAY, {"2.root.json", "2.targets.json", "2.snapshot.json"}),
    ],
)
def test_it_is_signed_anew_when_half_of_a_life_is_over(
    place: Repository, tmp_path: Path, after: timedelta, new: set[str]
) -> None:
    """F6."""
    place.publish(FIRST, NOW)
    before = names(place)
    place.publish(FIRST, NOW + after)
    assert names(place) - before == new - {"timestamp.json"}
    assert follow(place, tmp_path / "child", NOW + after + DAY / 3).targets.keys() == {"en/v1"}


def test_a_root_key_that_is_away_is_asked_for_in_time(place: Repository, caplog: pytest.LogCaptureFixture) -> None:
    """F6."""
    place.publish(FIRST, NOW)
    place.ring.file("root").unlink()
    with caplog.at_level(logging.WARNING):
        place.publish(FIRST, NOW + 190 * DAY)
    assert "node keys rotate root" in caplog.text
    assert "2.root.json" not in names(place)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", range(4))
def test_a_writer_that_was_killed_leaves_what_can_be_followed(
    place: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """F12: at any file, the old state or the new one is there."""
    place.publish(FIRST, NOW)
    follow(place, tmp_path / "child")
    left = [writes]

    def write(file: Path, data: bytes) -> None:
        if left[0] == 0:
            (file.parent / f".new-{writes}").write_bytes(data[:10])
            raise Killed
        left[0] -= 1
        files.write_whole(file, data)

    with monkeypatch.context() as patched:
        patched.setattr(repository, "write_whole", write)
        if writes < 3:
            with pytest.raises(Killed):
                place.publish(SECOND, NOW)
        else:
            place.publish(SECOND, NOW)
    seen = follow(place, tmp_path / "child").targets.keys()
    assert seen == (SECOND if writes == 3 else FIRST).keys()
    place.publish(SECOND, NOW)
    assert follow(place, tmp_path / "child").targets.keys() == SECOND.keys()
    assert not list(place.folder.glob(".new-*"))


@pytest.mark.parametrize("name", ["1.targets.json", "1.snapshot.json"])
def test_a_damaged_file_of_ours_is_made_anew(place: Repository, tmp_path: Path, name: str) -> None:
    place.publish(FIRST, NOW)
    follow(place, tmp_path / "child")
    (place.folder / name).write_bytes(b"{}")
    place.publish(FIRST, NOW)
    assert follow(place, tmp_path / "child").targets.keys() == {"en/v1"}


def test_old_versions_go_and_roots_stay(place: Repository) -> None:
    for number in range(1, 25):
        place.publish({"en/v1": Target(number, "1" * 64)}, NOW)
        if number <= 3:
            place.change_root(lambda root: None, place.ring.root_keys(place.root()), NOW)
    kept = names(place)
    assert len(kept) == 4 + 2 * KEPT_VERSIONS + 1
    assert {"1.root.json", "4.root.json", "24.targets.json"} <= kept
    assert "8.targets.json" not in kept


def test_every_role_gets_a_new_key(place: Repository, tmp_path: Path) -> None:
    """F10: also where the writer was killed between the root and the file of the key."""
    place.publish(FIRST, NOW)
    follow(place, tmp_path / "child")
    for role in ("root", "snapshot", "timestamp"):
        before, new = keys_of(place.root(), role), place.ring.next(role)
        signers = [*place.ring.root_keys(place.root()), new]
        place.change_root(lambda root, role=role, new=new: replace_keys(root, role, [new.public], 1), signers, NOW)
        place.publish(FIRST, NOW)  # which finds the next key and puts it in its place
        assert keys_of(place.root(), role) == [new.public] != before
        assert not list(place.ring.folder.glob("*.next"))
        assert follow(place, tmp_path / "child").root.version == place.root().version


def test_a_root_needs_the_keys_of_the_old_and_the_new_one(place: Repository) -> None:
    """F10: nothing is written else."""
    place.publish(FIRST, NOW)
    old, new = place.ring.root_keys(place.root()), [PrivateKey.generate() for _ in range(3)]
    wanted = [key.public for key in new]

    def change(root: Any, count: int = 2) -> None:
        replace_keys(root, "root", wanted, count)

    for signers in ([], old, new, [*old, new[0]]):
        with pytest.raises(LocalFailure, match=r"root asks for \d of \d root keys"):
            place.change_root(change, signers, NOW)
    with pytest.raises(BadData, match="asks for 4 of 3"):
        place.change_root(lambda root: replace_keys(root, "timestamp", wanted, 4), old, NOW)
    assert names(place) == {"1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"}
    assert place.change_root(change, [*old, *new[1:]], NOW).version == 2


def test_another_key_of_the_node_than_the_root_names_publishes_nothing(place: Repository) -> None:
    """F4."""
    place.publish(FIRST, NOW)
    other = Repository(place.folder, place.ring, PrivateKey.generate(), LIVES)
    with pytest.raises(LocalFailure, match="not the one that its root names") as caught:
        other.publish(SECOND, NOW)
    assert "rotate targets" in caught.value.hint


def test_keys_of_roles_are_under_the_passphrase_of_the_node(tmp_path: Path) -> None:
    """K5, K6."""
    ring = Keyring(tmp_path, "a long passphrase")
    Repository(tmp_path / "repository", ring, ring.made(ring.file("targets")), LIVES).publish({}, NOW)
    pems = sorted(tmp_path.glob("*.pem"))
    assert [file.name for file in pems] == ["node.pem", "root.pem", "snapshot.pem", "timestamp.pem"]
    for file in pems:
        assert b"ENCRYPTED" in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
    assert "a long" not in repr(ring)


def test_one_at_a_time(tmp_path: Path) -> None:
    """F12."""
    inside, order = threading.Event(), []

    def hold() -> None:
        with locked(tmp_path):
            inside.set()
            inside.clear()
            order.append("first")

    with locked(tmp_path):
        other = threading.Thread(target=hold)
        other.start()
        with pytest.raises(LocalFailure, match="another process"), locked(tmp_path, wait_s=0.05):
            pass
        order.append("zeroth")
    other.join(10)
    assert order == ["zeroth", "first"]

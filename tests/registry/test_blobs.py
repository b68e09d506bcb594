"""Blobs are whole and right, or they are not there: damage, kills, full disks and resumed transfers."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.blobs import BlobStore
from registry.errors import BadData, LocalFailure

MIB = 1 << 20
DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


def store_in(folder: Path) -> BlobStore:
    return BlobStore(folder / "blobs", folder / "partial")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return store_in(tmp_path)


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


# Whole and right


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(3 * MIB + 7)])
def test_what_is_put_is_read_back(blobs: BlobStore, tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    digest = blobs.put_bytes(data)
    assert digest == hashlib.sha256(data).hexdigest() == blobs.put_file(source)
    assert blobs.has(digest)
    assert blobs.read(digest, max_bytes=len(data)) == data
    assert blobs.open_verified(digest).read_bytes() == data
    assert blobs.path(digest) == tmp_path / "blobs" / digest[:2] / digest
    assert blobs.check_integrity() == []
    assert files_under(tmp_path) == sorted([source, blobs.path(digest)])


def test_a_linked_file_is_put_by_its_content(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    (tmp_path / "link").symlink_to(tmp_path / "source")
    assert blobs.put_file(tmp_path / "link") == DIGEST


def test_only_the_owner_can_look_in(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        blobs = store_in(tmp_path)
        blobs.put_bytes(DATA)
        other = hashlib.sha256(b"other").hexdigest()
        blobs.append_partial(other, 0, b"oth", size_limit=5)
    finally:
        os.umask(old)
    places = [tmp_path / "blobs", tmp_path / "partial", blobs.path(DIGEST).parent]
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700}
    written = [blobs.path(DIGEST), tmp_path / "partial" / other]
    assert {stat.S_IMODE(file.stat().st_mode) for file in written} == {0o600}


@pytest.mark.parametrize(
    "digest", ["", "..", "../" * 21 + "x", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n", "٣" * 64]
)
def test_what_is_not_a_digest_never_becomes_a_path(blobs: BlobStore, digest: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: blobs.path(digest),
        lambda: blobs.has(digest),
        lambda: blobs.read(digest, 10),
        lambda: blobs.open_verified(digest),
        lambda: blobs.partial_size(digest),
        lambda: blobs.append_partial(digest, 0, b"", 10),
        lambda: blobs.finish_partial(digest, 0),
        lambda: blobs.discard_partial(digest),
    ]
    for call in calls:
        with pytest.raises(BadData, match="not a SHA-256"):
            call()


def test_a_blob_that_is_not_here_is_said_to_be_missing(blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)
    for read in (functools.partial(blobs.read, DIGEST, 10), functools.partial(blobs.open_verified, DIGEST)):
        with pytest.raises(LocalFailure, match="is not here"):
            read()


def test_a_blob_larger_than_the_reader_takes_is_refused_and_kept(blobs: BlobStore) -> None:
    blobs.put_bytes(DATA)
    with pytest.raises(BadData, match="too large"):
        blobs.read(DIGEST, max_bytes=len(DATA) - 1)
    assert blobs.has(DIGEST)


def test_what_is_not_a_regular_file_is_not_put(blobs: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(LocalFailure, match="cannot store"):
            blobs.put_file(tmp_path / name)


# Damage


def damage(file: Path, data: bytes) -> None:
    file.write_bytes(data)


@given(data=st.binary(min_size=1, max_size=3000), choice=st.data())
def test_a_change_of_any_one_byte_of_a_stored_blob_is_detected(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, choice: st.DataObject
) -> None:
    blobs = store_in(tmp_path_factory.mktemp("node"))
    digest = blobs.put_bytes(data)
    changed = bytearray(data)
    changed[choice.draw(st.integers(0, len(data) - 1))] ^= choice.draw(st.integers(1, 255))
    for read in (functools.partial(blobs.read, digest, len(data)), functools.partial(blobs.open_verified, digest)):
        damage(blobs.path(digest), bytes(changed))
        assert blobs.check_integrity() == [f"{digest[:2]}/{digest}: its bytes have changed"]
        with pytest.raises(BadData, match="is damaged and was set aside"):
            read()
        assert not blobs.has(digest)
        set_aside = blobs.path(digest).with_name(f"{digest}.damaged")
        assert set_aside.read_bytes() == changed
        set_aside.unlink()


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA + b"\0", DATA[1:] + DATA[:1]])
def test_a_blob_cut_short_or_grown_is_detected(blobs: BlobStore, wrong: bytes) -> None:
    blobs.put_bytes(DATA)
    damage(blobs.path(DIGEST), wrong)
    with pytest.raises(BadData, match="is damaged"):
        blobs.read(DIGEST, max_bytes=10**6)


def test_putting_a_damaged_blob_again_heals_it(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    blobs.put_bytes(DATA)
    puts: list[Callable[[], str]] = [lambda: blobs.put_bytes(DATA), lambda: blobs.put_file(source)]
    for put in puts:
        damage(blobs.path(DIGEST), b"wrong")
        put()
        assert blobs.read(DIGEST, len(DATA)) == DATA


def test_a_link_in_the_place_of_a_blob_is_not_followed(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_bytes(DATA)
    blobs.path(DIGEST).rename(tmp_path / "elsewhere")
    blobs.path(DIGEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalFailure):
        blobs.read(DIGEST, len(DATA))
    assert blobs.check_integrity() == [f"{DIGEST[:2]}/{DIGEST}: not a regular file"]


def test_the_integrity_check_names_everything_that_is_strange(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_bytes(DATA)
    damage(blobs.path(DIGEST), b"wrong")
    with pytest.raises(BadData):
        blobs.read(DIGEST, 10)
    shelf = tmp_path / "blobs" / "00"
    shelf.mkdir()
    (shelf / "notes.txt").write_text("hello")
    (shelf / DIGEST).write_bytes(DATA)
    assert blobs.check_integrity() == [
        f"00/{DIGEST}: not a blob",
        "00/notes.txt: not a blob",
        f"{DIGEST[:2]}/{DIGEST}.damaged: set aside as damaged",
    ]


# Kills and full disks


def start(script: str, folder: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Run Python in a process of its own, with `blobs` open in `folder`."""
    head = "import sys; from pathlib import Path; from registry.blobs import BlobStore; folder = Path(sys.argv[1])\n"
    head += "blobs = BlobStore(folder / 'blobs', folder / 'partial')\n"
    command = [*wrapper, sys.executable, "-c", head + script, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_in_the_middle_of_a_put_leaves_nothing_visible(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "endless"
    with source.open("wb") as sparse:
        sparse.truncate(1 << 40)  # takes no room, and no machine copies it before the kill
    with start("blobs.put_file(Path(sys.argv[2]))", tmp_path, str(source)) as writer:
        give_up_s = time.monotonic() + 60
        while not any(file.stat().st_size > 8 * MIB for file in files_under(tmp_path / "partial")):
            assert writer.poll() is None and time.monotonic() < give_up_s
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(timeout=60) == -signal.SIGKILL
    assert files_under(tmp_path / "blobs") == []
    assert blobs.check_integrity() == []
    (left,) = files_under(tmp_path / "partial")
    assert blobs.sweep(before_s=left.stat().st_mtime - 1) == 0
    assert blobs.sweep(before_s=left.stat().st_mtime + 1) == 1
    assert files_under(tmp_path / "partial") == []


def test_kills_at_any_moment_leave_only_whole_blobs(blobs: BlobStore, tmp_path: Path) -> None:
    script = "for n in range(10**9): print(blobs.put_bytes(n.to_bytes(8, 'big') * 5000), flush=True)"
    wait_s = random.Random(7)
    promised: set[str] = set()
    for _ in range(6):
        with start(script, tmp_path) as writer:
            assert writer.stdout is not None
            promised.add(writer.stdout.readline().strip())
            time.sleep(wait_s.uniform(0, 0.02))  # the moment of the kill, not a hope that something has happened
            writer.kill()
            promised.update(line.strip() for line in writer.stdout if line.endswith("\n"))
    assert promised
    assert all(blobs.has(digest) for digest in promised)
    assert blobs.check_integrity() == []


def _namespaces_allow_mounts() -> bool:
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode
    )


SMALL_DISK = (
    "unshare", "--user", "--map-root-user", "--mount",
    "sh", "-c", 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"',
)  # fmt: skip
SMALL_FILES = ("sh", "-c", 'ulimit -f 4096 && exec "$@"')  # blocks of 512 bytes in dash, 1024 in bash
FULL_DISKS = ["small files", *(["small disk"] if _namespaces_allow_mounts() else [])]

WHEN_FULL = """
from registry.errors import LocalFailure
def fails(call):
    before = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    try:
        call()
    except LocalFailure as error:
        assert "6,291,456 bytes are needed" in error.message and " are free in " in error.message, error.message
        assert error.hint
    else:
        sys.exit("it was written")
    after = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    assert before == after, (before, after)
    assert blobs.check_integrity() == []

small, large = blobs.put_bytes(b"small"), bytes(6 << 20)
fails(lambda: blobs.put_bytes(large))
fails(lambda: blobs.put_file(Path(sys.argv[2])))
blobs.append_partial("ab" * 32, 0, b"begun", size_limit=1 << 30)
fails(lambda: blobs.append_partial("ab" * 32, 5, large, size_limit=1 << 30))
assert blobs.partial_size("ab" * 32) == 5
assert blobs.read(small, 5) == b"small"
assert blobs.has(blobs.put_bytes(b"there is room for this"))
"""


@pytest.mark.parametrize("kind", FULL_DISKS)
def test_a_full_disk_is_a_local_failure_that_leaves_nothing_half_written(tmp_path: Path, kind: str) -> None:
    source, folder = tmp_path / "source", tmp_path / "small"
    source.write_bytes(bytes(6 * MIB))
    folder.mkdir()
    wrapper = (*SMALL_DISK, str(folder)) if kind == "small disk" else (*SMALL_FILES, "sh")
    with start(WHEN_FULL, folder, str(source), wrapper=wrapper) as run:
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors


# On the way in


@given(
    data=st.binary(max_size=2000),
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 700)), max_size=12),
)
def test_a_transfer_in_any_pieces_gives_the_blob(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[tuple[int, int]]
) -> None:
    """Pieces may repeat, overlap and leave gaps; every call is a fresh store, as after a restart."""
    folder = tmp_path_factory.mktemp("node")
    digest = hashlib.sha256(data).hexdigest()
    for offset, length in [*cuts, *((place, 500) for place in range(0, 2001, 500))]:
        blobs = store_in(folder)
        here = blobs.partial_size(digest)
        piece = data[offset : offset + length]
        if offset > here:
            with pytest.raises(BadData, match=f"send from byte {here} on|{here} bytes of"):
                blobs.append_partial(digest, offset, piece, size_limit=len(data))
        else:
            expected = max(here, offset + len(piece))
            assert blobs.append_partial(digest, offset, piece, size_limit=max(len(data), offset)) == expected
            assert blobs.partial_size(digest) == expected
        assert not blobs.has(digest)
    blobs = store_in(folder)
    assert blobs.finish_partial(digest, len(data)).read_bytes() == data
    assert blobs.finish_partial(digest, len(data)) == blobs.path(digest)  # again
    assert blobs.read(digest, len(data)) == data
    assert files_under(folder / "partial") == []


def test_a_transfer_that_is_not_whole_waits(blobs: BlobStore) -> None:
    blobs.append_partial(DIGEST, 0, DATA[:100], size_limit=len(DATA))
    with pytest.raises(BadData, match=f"100 of {len(DATA)} bytes") as refusal:
        blobs.finish_partial(DIGEST, len(DATA))
    assert refusal.value.hint == "send from byte 100 on"
    assert blobs.partial_size(DIGEST) == 100
    assert not blobs.has(DIGEST)


@pytest.mark.parametrize("received", [b"\0" * len(DATA), DATA + b"more"])
def test_a_transfer_of_other_bytes_never_becomes_a_blob(blobs: BlobStore, received: bytes) -> None:
    """T1, T5."""
    blobs.append_partial(DIGEST, 0, received, size_limit=10**6)
    with pytest.raises(BadData, match="are not those of"):
        blobs.finish_partial(DIGEST, len(DATA))
    assert not blobs.has(DIGEST)
    assert blobs.partial_size(DIGEST) == 0


def test_a_transfer_has_a_largest_size(blobs: BlobStore) -> None:
    blobs.append_partial(DIGEST, 0, b"12345", size_limit=8)
    with pytest.raises(BadData, match="the limit is 8"):
        blobs.append_partial(DIGEST, 5, b"6789", size_limit=8)
    with pytest.raises(BadData, match="not -1"):
        blobs.append_partial(DIGEST, -1, b"6789", size_limit=8)
    assert blobs.partial_size(DIGEST) == 5


def test_finishing_what_never_began_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(BadData, match="no byte of"):
        blobs.finish_partial(DIGEST, 5)


def test_a_forgotten_transfer_begins_anew(blobs: BlobStore) -> None:
    blobs.append_partial(DIGEST, 0, b"12345", size_limit=8)
    blobs.discard_partial(DIGEST)
    blobs.discard_partial(DIGEST)
    assert blobs.partial_size(DIGEST) == 0


def test_a_link_in_the_place_of_a_transfer_is_not_followed(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / DIGEST).symlink_to(tmp_path / "victim")
    with pytest.raises(LocalFailure):
        blobs.append_partial(DIGEST, 0, b"x", size_limit=10)
    assert not (tmp_path / "victim").exists()


def test_a_transfer_heals_a_damaged_blob(blobs: BlobStore) -> None:
    blobs.put_bytes(DATA)
    damage(blobs.path(DIGEST), b"wrong")
    blobs.append_partial(DIGEST, 0, DATA, size_limit=len(DATA))
    blobs.finish_partial(DIGEST, len(DATA))
    assert blobs.read(DIGEST, len(DATA)) == DATA


def test_a_piece_that_waited_while_the_blob_was_finished_does_not_reach_into_it(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.append_partial(DIGEST, 0, DATA, size_limit=len(DATA))

    def finished_meanwhile(file: IO[bytes], how: int) -> None:
        monkeypatch.undo()
        store_in(tmp_path).finish_partial(DIGEST, len(DATA))
        fcntl.flock(file, how)

    monkeypatch.setattr("registry.blobs.fcntl.flock", finished_meanwhile)
    blobs.append_partial(DIGEST, 0, b"late", size_limit=len(DATA))
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert blobs.partial_size(DIGEST) == 4


def test_many_senders_of_one_blob_at_once_do_no_harm(blobs: BlobStore) -> None:
    """Each sends everything and finishes; a piece that comes late must not reach into the finished blob."""

    def send(sender: int) -> None:
        order = random.Random(sender)
        while not blobs.has(DIGEST):
            offset = blobs.partial_size(DIGEST)
            try:
                blobs.append_partial(DIGEST, offset, DATA[offset : offset + order.randint(1, 3000)], len(DATA))
                blobs.finish_partial(DIGEST, len(DATA))
            except BadData:
                continue  # another was quicker, or not all is here yet

    with ThreadPoolExecutor(8) as senders:
        list(senders.map(send, range(8), timeout=60))
    assert blobs.read(DIGEST, len(DATA)) == DATA
    assert blobs.check_integrity() == []


def test_many_writers_of_the_same_blobs_at_once_do_no_harm(blobs: BlobStore, tmp_path: Path) -> None:
    contents = [bytes([number]) * 70_000 for number in range(4)]
    with ThreadPoolExecutor(8) as writers:
        digests = list(writers.map(blobs.put_bytes, contents * 8, timeout=60))
    assert len(set(digests)) == 4
    assert blobs.check_integrity() == []
    assert len(files_under(tmp_path)) == 4

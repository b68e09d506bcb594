from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.blobs import BlobStore
from registry.documents import File
from registry.errors import BadData, LocalFailure
from sync.fetch import Progress
from sync.push import CHUNK_BYTES, Standing, standing, submit
from sync.transport import Broken, Peer, Refused

ENVELOPE = b'{"payload":"..."}'
DIGEST = hashlib.sha256(ENVELOPE).hexdigest()
DATA = random.Random(1).randbytes(2 * CHUNK_BYTES + 500)


class Parent:
    """A parent that keeps what it is sent, and can be told to misbehave."""

    def __init__(self, *files: File) -> None:
        self.files = {file.sha256: file for file in files}
        self.held = {file.sha256: bytearray() for file in files}
        self.requests: list[str] = []
        self.answers: dict[str, object] = {}
        self.puts: list[object] = []  # for each upload: an error to raise, a number to answer, None to take it

    @property
    def missing(self) -> list[str]:
        return [sha256 for sha256, file in self.files.items() if len(self.held[sha256]) < file.size]

    def reply(self, key: str, usual: object) -> bytes:
        answer = self.answers.get(key, usual)
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def post(self, url: str, body: bytes, content_type: str, *, max_bytes: int, timeout_s: float) -> bytes:
        self.requests.append("POST")
        assert (url, body) == ("http://parent/v1/updates", ENVELOPE)
        return self.reply("post", {"digest": DIGEST, "state": "received", "missing": self.missing})

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        self.requests.append("GET")
        assert url == f"http://parent/v1/updates/{DIGEST}"
        return self.reply("get", {"state": "received", "verdict": None, "missing": self.missing})

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        raise NotImplementedError

    def offset(self, url: str, *, timeout_s: float) -> int:
        self.requests.append("HEAD")
        return len(self.held[url.rpartition("/")[2]])

    def put_range(self, url: str, offset: int, body: bytes, *, timeout_s: float) -> int:
        self.requests.append(f"PUT {offset}+{len(body)}")
        order = self.puts.pop(0) if self.puts else None
        if isinstance(order, Exception):
            raise order
        if isinstance(order, int):
            return order
        held = self.held[url.rpartition("/")[2]]
        assert offset <= len(held)
        held[offset : offset + len(body)] = body
        return len(held)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "partial")


@pytest.fixture
def file(blobs: BlobStore) -> File:
    return File(name="adapter_model.safetensors", size=len(DATA), sha256=blobs.put_bytes(DATA))


def peer(parent: Parent) -> Peer:
    return Peer(parent, "http://parent")


def test_missing_files_go_in_pieces(blobs: BlobStore, file: File) -> None:
    parent, seen = Parent(file), list[Progress]()
    assert submit(peer(parent), ENVELOPE, [file], blobs, seen.append) == Standing(
        state="received", verdict=None, missing=()
    )
    assert parent.held[file.sha256] == DATA
    assert parent.requests == [
        "POST",
        "HEAD",
        f"PUT 0+{CHUNK_BYTES}",
        f"PUT {CHUNK_BYTES}+{CHUNK_BYTES}",
        f"PUT {2 * CHUNK_BYTES}+500",
        "GET",
    ]
    assert [progress.done for progress in seen] == [CHUNK_BYTES, 2 * CHUNK_BYTES, len(DATA)]


def test_what_the_parent_has_is_not_sent_again(blobs: BlobStore, file: File) -> None:
    parent = Parent(file)
    submit(peer(parent), ENVELOPE, [file], blobs)
    parent.requests.clear()
    submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.requests == ["POST", "GET"]


def test_an_upload_goes_on_from_where_the_parent_is(blobs: BlobStore, file: File) -> None:
    parent = Parent(file)
    parent.held[file.sha256] += DATA[:1234]
    submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.requests[2] == f"PUT 1234+{CHUNK_BYTES}"
    assert parent.held[file.sha256] == DATA


def test_a_parent_that_stopped_after_the_last_byte_is_made_to_finish(blobs: BlobStore, file: File) -> None:
    parent = Parent(file)
    parent.held[file.sha256] += DATA
    parent.answers["post"] = {"digest": DIGEST, "state": "received", "missing": [file.sha256]}
    submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.requests == ["POST", "HEAD", f"PUT {len(DATA)}+0", "GET"]


def test_a_conflict_is_settled_by_asking_where_the_parent_is(blobs: BlobStore, file: File) -> None:
    parent = Parent(file)
    parent.puts = [None, Refused("not there", "", 409, "conflict")]
    submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.held[file.sha256] == DATA


@pytest.mark.parametrize("stuck", [0, CHUNK_BYTES // 2])
def test_a_parent_that_takes_no_more_bytes_is_given_up(blobs: BlobStore, file: File, stuck: int) -> None:
    """T8."""
    parent = Parent(file)
    parent.puts = [stuck] * 100
    with pytest.raises(LocalFailure, match="takes no more bytes"):
        submit(peer(parent), ENVELOPE, [file], blobs)
    assert len(parent.requests) < 10


def test_other_refusals_and_broken_lines_are_told(blobs: BlobStore, file: File) -> None:
    for error in (Refused("too large", "", 413, "too_large"), Broken("gone")):
        parent = Parent(file)
        parent.puts = [error]
        with pytest.raises(type(error), match=str(error)):
            submit(peer(parent), ENVELOPE, [file], blobs)


def test_only_files_of_the_update_are_sent(blobs: BlobStore, file: File) -> None:
    """A parent cannot make us upload what else lies among our blobs."""
    secret = blobs.put_bytes(b"rows of patients")
    parent = Parent(file)
    parent.answers["post"] = {"digest": DIGEST, "state": "received", "missing": [file.sha256, secret]}
    with pytest.raises(BadData, match="not part of the update"):
        submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.requests == ["POST"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"[" * 50_000,
        {"digest": DIGEST, "state": "received"},
        {"digest": DIGEST, "state": "received", "missing": [], "more": 1},
        {"digest": DIGEST, "state": "re\x1b[31m", "missing": []},
        {"digest": DIGEST, "state": "received", "missing": ["x"]},
        {"digest": DIGEST, "state": "received", "missing": ["0" * 64] * 101},
        {"digest": "0" * 64, "state": "received", "missing": []},
    ],
)
def test_a_nonsensical_receipt_stops_everything(blobs: BlobStore, file: File, answer: object) -> None:
    parent = Parent(file)
    parent.answers["post"] = answer
    with pytest.raises(BadData):
        submit(peer(parent), ENVELOPE, [file], blobs)
    assert parent.requests == ["POST"]


@pytest.mark.parametrize("answer", [b"{}", {"state": "accepted", "verdict": 7, "missing": []}, [1]])
def test_a_nonsensical_standing_is_refused(answer: object) -> None:
    parent = Parent()
    parent.answers["get"] = answer
    with pytest.raises(BadData, match="not a standing"):
        standing(peer(parent), DIGEST)


def test_a_file_that_was_damaged_here_is_not_sent(blobs: BlobStore, file: File) -> None:
    blobs.path(file.sha256).write_bytes(DATA[:-1] + b"x")
    parent = Parent(file)
    with pytest.raises(BadData, match="damaged"):
        submit(peer(parent), ENVELOPE, [file], blobs)
    assert not any(request.startswith("PUT") for request in parent.requests)

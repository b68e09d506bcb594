from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from node.api.app import create_app
from node.context import Node
from registry.documents import Enrolment, ReleasePin, seal_document
from registry.errors import BadData, BanyanError, LocalFailure
from registry.keys import PrivateKey, PublicKey
from registry.paths import NodePath, Ref
from sync.chain import stored_chain
from sync.fetch import Progress
from sync.pull import fetch_release, find_version, poll
from sync.transport import Broken, HttpTransport, Limits, Peer, Refused
from tests.world import (
    BASE_FILES,
    adapter_bytes,
    make_node,
    put_base,
    put_enrolment,
    put_release,
    put_tree,
    snapshot,
    utc_now,
)

ADAPTERS = {"en": adapter_bytes(1), "en/finance": adapter_bytes(2)}


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "parent", "master", "en", "en/finance")
    yield node
    node.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "child", "en/finance/cards")
    yield node
    node.close()


def peer(url: str, **limits: float) -> Peer:
    return Peer(HttpTransport(allow_private=True), url, Limits(answer_s=10, file_s=20, **limits))


def trusting(*keys: PublicKey) -> Callable[[NodePath], list[PublicKey]]:
    return lambda path: list(keys)


def fetch(child: Node, source: Peer, pin: ReleasePin, *keys: PublicKey, **options: object) -> None:
    fetch_release(
        source,
        pin,
        trusted=trusting(*keys),
        store=child.store,
        blobs=child.blobs,
        now=options.pop("now", utc_now()),
        **options,
    )


class Tampering:
    """A transport that changes what a peer answers."""

    def __init__(self, change: Callable[[str, bytes], bytes]) -> None:
        self._real = HttpTransport(allow_private=True)
        self._change = change
        self.asked: list[tuple[str, int]] = []

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        return self._change(url, self._real.get(url, max_bytes=max_bytes, timeout_s=timeout_s))

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        self.asked.append((url, offset))
        pieces = self._real.get_range(url, offset, max_bytes=max_bytes, timeout_s=timeout_s)
        yield self._change(url, b"".join(pieces))


def test_a_release_comes_with_its_chain_its_base_and_all_files(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "master", "en", "en/finance", adapters=ADAPTERS)
    source = peer(serve(create_app(parent)))
    assert poll(source) == [pins[path] for path in ("en", "en/finance", "master")]
    seen: list[Progress] = []
    fetch(child, source, pins["en/finance"], parent.key.public, on_progress=seen.append)
    assert snapshot(child) == ({pin.digest for pin in pins.values()}, {"en/finance": pins["en/finance"].digest})
    chain = stored_chain(child.store, child.blobs, pins["en/finance"].digest)
    assert [link.release.path for link in chain] == ["master", "en", "en/finance"]
    for link in chain[1:]:
        assert link.release.adapter is not None
        assert child.blobs.read(link.release.adapter.file.sha256, 10**7) == ADAPTERS[link.release.path]
    for data in BASE_FILES.values():
        assert child.blobs.has(hashlib.sha256(data).hexdigest())
    assert seen[-1].done == seen[-1].total
    assert child.blobs.check_integrity() == []
    assert child.store.check_integrity() == []


def test_fetching_again_fetches_nothing(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "en", adapters=ADAPTERS)
    url = serve(create_app(parent))
    fetch(child, peer(url), pins["en"], parent.key.public)
    nothing = Tampering(lambda url, answer: pytest.fail(f"asked for {url}"))
    fetch(child, Peer(nothing, url), pins["en"], parent.key.public)


def test_a_broken_line_is_taken_up_where_it_broke(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "en", adapters=ADAPTERS)
    adapter = hashlib.sha256(ADAPTERS["en"]).hexdigest()
    cuts = [100_000, 250_000]

    class Cut(Tampering):
        def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
            self.asked.append((url, offset))
            data = b"".join(self._real.get_range(url, offset, max_bytes=max_bytes, timeout_s=timeout_s))
            if url.endswith(adapter) and cuts:
                yield data[: cuts.pop(0)]
                raise Broken("the line broke")
            yield data

    transport = Cut(lambda url, answer: answer)
    fetch(child, Peer(transport, serve(create_app(parent))), pins["en"], parent.key.public)
    assert [offset for url, offset in transport.asked if url.endswith(adapter)] == [0, 100_000, 350_000]
    assert child.blobs.read(adapter, 10**7) == ADAPTERS["en"]


def test_a_line_that_brings_nothing_is_given_up(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "en", adapters=ADAPTERS)

    class Dead(Tampering):
        def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
            raise Broken("nothing comes")
            yield b""

    with pytest.raises(Broken):
        fetch(child, Peer(Dead(lambda u, a: a), serve(create_app(parent))), pins["en"], parent.key.public)
    assert snapshot(child) == (set(), {})


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("change", [flip, lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
@pytest.mark.parametrize(
    "what", ["envelope", "envelope above", "manifest", "key above", "base file", "adapter", "card"]
)
def test_bytes_that_are_not_those_of_the_digest_are_refused(
    parent: Node, child: Node, serve: Callable, what: str, change: Callable[[bytes], bytes]
) -> None:
    """R8, R9."""
    pins = put_tree(parent, "en", "en/finance", adapters=ADAPTERS)
    chain = stored_chain(parent.store, parent.blobs, pins["en/finance"].digest)
    release = chain[-1].release
    assert release.adapter is not None
    target = {
        "envelope": pins["en/finance"].digest,
        "envelope above": pins["en"].digest,
        "manifest": release.base,
        "key above": parent.key.public.id,
        "base file": hashlib.sha256(BASE_FILES["config.json"]).hexdigest(),
        "adapter": release.adapter.file.sha256,
        "card": release.card.sha256,
    }[what]
    liar = Tampering(lambda url, answer: change(answer) if url.endswith(target) else answer)
    url = serve(create_app(parent))
    with pytest.raises(BadData):
        fetch(child, Peer(liar, url), pins["en/finance"], parent.key.public)
    assert snapshot(child) == (set(), {})
    fetch(child, peer(url), pins["en/finance"], parent.key.public)  # an honest peer mends it
    assert child.blobs.check_integrity() == []


def test_wrong_bytes_of_an_earlier_try_are_fetched_anew(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "en", adapters=ADAPTERS)
    adapter = hashlib.sha256(ADAPTERS["en"]).hexdigest()
    child.blobs.append_partial(adapter, 0, b"poison" * 1000, len(ADAPTERS["en"]))
    fetch(child, peer(serve(create_app(parent))), pins["en"], parent.key.public)
    assert child.blobs.read(adapter, 10**7) == ADAPTERS["en"]


def test_a_stranger_is_not_trusted(parent: Node, child: Node, serve: Callable) -> None:
    """R7."""
    pins = put_tree(parent, "en")
    source = peer(serve(create_app(parent)))
    for keys in ((), (PrivateKey.generate().public,)):
        with pytest.raises(BadData, match="not trusted"):
            fetch(child, source, pins["en"], *keys)
    assert snapshot(child) == (set(), {})


def test_a_peer_cannot_pass_one_release_off_as_another(parent: Node, child: Node, serve: Callable) -> None:
    """R1, R4."""
    pins = put_tree(parent, "en", "en/finance")
    source = peer(serve(create_app(parent)))
    for lie in (
        ReleasePin(path="en", version=1, digest=pins["en/finance"].digest),
        ReleasePin(path="en/finance", version=2, digest=pins["en/finance"].digest),
    ):
        with pytest.raises(BadData, match="was asked for"):
            fetch(child, source, lie, parent.key.public)
    swapped = Tampering(
        lambda url, answer: (
            answer if pins["en"].digest not in url else source.get(f"/v1/releases/{pins['en/finance'].digest}", 10**6)
        )
    )
    with pytest.raises(BadData, match="answered with release"):
        fetch(child, Peer(swapped, source.url), pins["en"], parent.key.public)


def test_rollback_is_refused_unless_the_version_was_asked_for(parent: Node, child: Node, serve: Callable) -> None:
    """R12, G7."""
    base = put_base(parent)
    old = put_release(parent, "en", base)
    new = put_release(parent, "en", base, version=2)
    source = peer(serve(create_app(parent)))
    fetch(child, source, new, parent.key.public)
    with pytest.raises(BadData, match="rollback refused"):
        fetch(child, source, old, parent.key.public)
    assert snapshot(child) == ({new.digest}, {"en": new.digest})
    fetch(child, source, old, parent.key.public, as_head=False)
    assert snapshot(child) == ({new.digest, old.digest}, {"en": new.digest})


def test_a_second_release_of_the_same_version_is_refused_and_told(
    parent: Node, child: Node, serve: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R2."""
    pins = put_tree(parent, "en")
    fetch(child, peer(serve(create_app(parent))), pins["en"], parent.key.public)
    (tmp_path / "twin/keys").mkdir(parents=True)
    (tmp_path / "twin/keys/node.pem").write_bytes(parent.home.key_file.read_bytes())
    (tmp_path / "twin/keys/node.pem").chmod(0o600)
    twin = make_node(tmp_path / "twin", "en")
    put_enrolment(twin, "en/somebody")
    other = put_release(twin, "en", put_base(twin), adapter=adapter_bytes(3))
    for as_head in (True, False):
        with pytest.raises(BadData, match="two different releases"):
            fetch(child, peer(serve(create_app(twin))), other, parent.key.public, as_head=as_head)
    assert snapshot(child) == ({pins["en"].digest}, {"en": pins["en"].digest})
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "TWO RELEASES" in told
    assert all(proof in told for proof in (parent.key.public.id, pins["en"].digest, other.digest))
    twin.close()


def test_an_expired_release_is_no_head(parent: Node, child: Node, serve: Callable) -> None:
    """R11."""
    pin = put_release(parent, "en", put_base(parent), created=utc_now() - timedelta(days=3), days=2)
    source = peer(serve(create_app(parent)))
    with pytest.raises(BadData, match="expired on"):
        fetch(child, source, pin, parent.key.public)
    fetch(child, source, pin, parent.key.public, as_head=False)


def test_a_clock_that_is_a_day_slow_is_named(parent: Node, child: Node, serve: Callable) -> None:
    """R10."""
    pins = put_tree(parent, "en")
    with pytest.raises(BadData, match=r"24\.0 hours from now: this machine's clock says") as caught:
        fetch(child, peer(serve(create_app(parent))), pins["en"], parent.key.public, now=utc_now() - timedelta(days=1))
    assert "clock" in caught.value.hint
    assert snapshot(child) == (set(), {})


def test_a_file_beyond_the_limit_is_not_fetched(parent: Node, child: Node, serve: Callable) -> None:
    """T9."""
    pins = put_tree(parent, "en", adapters=ADAPTERS)
    with pytest.raises(BadData, match="more than the 600,000 allowed for one file"):
        fetch(child, peer(serve(create_app(parent)), max_file_bytes=600_000), pins["en"], parent.key.public)
    assert not list(child.home.partial.iterdir())


def test_a_full_disk_is_told_before_the_first_byte(
    parent: Node, child: Node, serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T9."""
    pins = put_tree(parent, "en", adapters=ADAPTERS)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(LocalFailure, match="1,000 are free"):
        fetch(child, peer(serve(create_app(parent))), pins["en"], parent.key.public)
    assert snapshot(child) == (set(), {})


def test_versions_are_found_by_path_and_number(parent: Node, serve: Callable) -> None:
    base = put_base(parent)
    first, second = (put_release(parent, "en", base, version=v) for v in (1, 2))
    source = peer(serve(create_app(parent)))
    assert [pin.digest for pin in find_version(source, Ref.parse("en"))] == [second.digest, first.digest]
    (found,) = find_version(source, Ref.parse("en@v1"))
    assert (found.digest, found.signer) == (first.digest, parent.key.public.id)
    assert find_version(source, Ref.parse("en/health@v1")) == []


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[{}]", b'[{"path":"en","version":1,"digest":"x"}]', b"\xff\xfe", b"[" * 10**5]
)
def test_a_peer_that_lists_nonsense(answering: Callable, answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        connection.close()

    with pytest.raises(BadData, match="did not answer with a list of releases"):
        poll(peer(answering(talk)))


def test_a_peer_that_is_slow_or_down_changes_nothing(child: Node, answering: Callable, parent: Node) -> None:
    pin = put_tree(parent, "en")["en"]
    slow = Peer(HttpTransport(allow_private=True), answering(lambda connection: None), Limits(answer_s=0.3))
    with pytest.raises(LocalFailure, match="limit of 0.3 s".replace(".", r"\.")):
        fetch(child, slow, pin, parent.key.public)
    down = Peer(HttpTransport(allow_private=True), "http://127.0.0.1:9", Limits(answer_s=5))
    with pytest.raises(LocalFailure, match="cannot be reached"):
        fetch(child, down, pin, parent.key.public)
    assert snapshot(child) == (set(), {})


def test_every_error_of_a_pull_tells_what_to_do(parent: Node, child: Node, serve: Callable) -> None:
    pins = put_tree(parent, "en")
    garbage = Tampering(lambda url, answer: json.dumps({"x": 1}).encode())
    with pytest.raises(BanyanError) as caught:
        fetch(child, Peer(garbage, serve(create_app(parent))), pins["en"], parent.key.public)
    assert caught.value.message


def test_what_is_not_there_is_a_no(parent: Node, child: Node, serve: Callable) -> None:
    missing = ReleasePin(path="en", version=1, digest="0" * 64)
    with pytest.raises(Refused, match="no release") as caught:
        fetch(child, peer(serve(create_app(parent))), missing, parent.key.public)
    assert caught.value.status == 404


def poisoned(data: bytes) -> bytes:
    return data[:-4] + np.float32("nan").tobytes()


@pytest.mark.parametrize("bad", [poisoned, lambda data: b"\x80\x04" + data, lambda data: data + bytes(4)])
def test_an_adapter_is_looked_at_before_its_release_is_visible(
    parent: Node, child: Node, serve: Callable, bad: Callable[[bytes], bytes]
) -> None:
    """R15: what the parent signed is still not what may be loaded."""
    pins = put_tree(parent, "en", "en/finance", adapters=ADAPTERS | {"en": bad(ADAPTERS["en"])})
    source = peer(serve(create_app(parent)))
    for path in ("en", "en/finance"):
        with pytest.raises(BadData, match="the adapter of en@v1 is not fit to be used"):
            fetch(child, source, pins[path], parent.key.public)
    assert snapshot(child) == (set(), {})


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("pytorch_model.bin", b"\x80\x04", "brings pytorch_model.bin"),
        ("modeling.py", b"import os", "brings modeling.py"),
        ("model.safetensors", b"PK\x03\x04" + bytes(60), "a zip archive"),
        ("config.json", b'{"auto_map": {"AutoModel": "modeling.Model"}}', "asks to run Python code"),
        ("tokenizer_config.json", b'{"x": [{"auto_map": 1}]}', "asks to run Python code"),
        ("config.json", b"[" * 10_000, "not JSON"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "../../keys/node.pem"}}', "not part of it"),
    ],
)
def test_a_base_is_data_and_nothing_else(
    parent: Node, child: Node, serve: Callable, name: str, data: bytes, words: str
) -> None:
    """R15, T10."""
    put_enrolment(parent, "en/somebody")
    pin = put_release(parent, "en", put_base(parent, {**BASE_FILES, name: data}))
    with pytest.raises(BadData, match=words):
        fetch(child, peer(serve(create_app(parent))), pin, parent.key.public)
    assert snapshot(child) == (set(), {})


def test_an_enrolment_from_the_beginning_of_time_is_one(parent: Node, child: Node, serve: Callable) -> None:
    """R7: no moment that a peer writes is too far for our arithmetic."""
    pin = put_tree(parent, "en")["en"]
    trusted = PrivateKey.generate()
    enrolment = Enrolment(
        path="en",
        key=parent.key.public.hex,
        issuer=trusted.public.id,
        issuer_path="en",
        created=datetime.min.replace(tzinfo=UTC),
        expires=utc_now() + timedelta(days=1),
    )

    class Showing(Tampering):
        def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
            if "/v1/enrolments/" in url:
                return seal_document(enrolment, trusted)
            return super().get(url, max_bytes=max_bytes, timeout_s=timeout_s)

    fetch(child, Peer(Showing(lambda url, answer: answer), serve(create_app(parent))), pin, trusted.public)
    assert snapshot(child)[1] == {"en": pin.digest}

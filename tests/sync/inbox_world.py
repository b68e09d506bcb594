"""A parent with one release and one enrolled child, for the tests of the inbox; run as a program, what they kill."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from registry.blobs import BlobStore
from registry.documents import Adapter, AdapterShape, CheckResult, Enrolment, File, ReleasePin, Update, seal_document
from registry.keys import PrivateKey, PublicKey
from registry.paths import NodePath
from registry.store import Store
from registry.tables import EnrolmentRow, HeadRow, ReleaseRow
from sync.enrolled import Identity
from sync.inbox import State, advance, append_file, file_offset, mark, receive

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = "ba5e" * 16
ADAPTER = b"adapter" * 500
TRANSFER = b"transfer" * 300


def file_of(data: bytes, name: str) -> File:
    return File(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def passing(update: Update, adapter: Path, transfer: Path | None) -> list[CheckResult]:
    return [CheckResult(name="files.all", value=1.0, threshold=2.0, passed=True, reason="fine", cost_ms=0.5)]


@dataclass
class World:
    """`own` is the parent, responsible for `en`, whose version 1 is its head; `child` may speak for `en/x`."""

    store: Store
    blobs: BlobStore
    own: Identity
    child: PrivateKey

    def update(self, key: PrivateKey | None = None, **changes: Any) -> bytes:
        """An update of the child that is right in everything but the changes."""
        signer = key or self.child
        fields: dict[str, Any] = {
            "path": "en/x",
            "issuer": signer.public.id,
            "audience": self.own.key.public.id,
            "base": BASE,
            "release": self.pin("en", 1),
            "sequence": 1,
            "created": NOW,
            "expires": NOW + timedelta(days=30),
            "adapter": Adapter(
                file=file_of(ADAPTER, "adapter.safetensors"),
                shape=AdapterShape(rank=8, alpha=16.0, targets=("q_proj",), dtype="F32"),
            ),
            "claims": (),
            "run": "6" * 64,
            "transfer": file_of(TRANSFER, "transfer.jsonl"),
            "transfer_rows": 3,
        }
        return seal_document(Update(**(fields | changes)), signer)

    def pin(self, path: str, version: int) -> ReleasePin:
        return ReleasePin(path=path, version=version, digest=hashlib.sha256(_release(path, version)).hexdigest())

    def release(self, path: str, version: int, *, own: bool = True, is_head: bool = True) -> None:
        with self.store.transaction() as session:
            row = ReleaseRow(
                digest=self.pin(path, version).digest, path=path, version=version, signer=self.own.key.public.id,
                base=BASE, envelope=_release(path, version), own=own, created=NOW, expires=NOW + timedelta(days=365),
            )  # fmt: skip
            session.add(row)
            session.flush()
            if is_head:
                session.merge(HeadRow(path=path, release=row.digest, changed=NOW))

    def enrol(
        self, key: PublicKey, path: str, *, by: PrivateKey | None = None, days: int = 365, **columns: Any
    ) -> None:
        issuer = by or self.own.key
        enrolment = Enrolment(
            path=path, key=key.hex, issuer=issuer.public.id, issuer_path="en",
            created=NOW - timedelta(days=500), expires=NOW + timedelta(days=days),
        )  # fmt: skip
        row: dict[str, Any] = {
            "key_id": key.id, "path": path, "public_key": key.hex, "state": "active", "request": b"",
            "envelope": seal_document(enrolment, issuer), "changed": NOW,
        }  # fmt: skip
        with self.store.transaction() as session:
            session.merge(EnrolmentRow(**(row | columns)))

    def upload(self, digest: str) -> None:
        for data in (ADAPTER, TRANSFER):
            sha256 = hashlib.sha256(data).hexdigest()
            while (offset := file_offset(self.store, self.blobs, digest, sha256)) < len(data):
                piece = data[offset : offset + 1500]
                append_file(self.store, self.blobs, digest, sha256, offset=offset, data=piece)


def open_world(url: str, folder: Path) -> World:
    """The world in a folder, made when it is not there yet."""
    keys = [folder / "parent.pem", folder / "child.pem"]
    is_new = not keys[1].exists()
    for file in keys if is_new else ():
        PrivateKey.generate().save(file)
    own, child = (PrivateKey.load(file) for file in keys)
    world = World(
        Store.open(url), BlobStore(folder / "blobs", folder / "partial"), Identity(own, (NodePath.parse("en"),)), child
    )
    if is_new:
        world.release("en", 1)
        world.enrol(child.public, "en/x")
    return world


def _release(path: str, version: int) -> bytes:
    return f"release {path} {version}".encode()


def live(world: World, envelope: bytes) -> None:
    """The whole life of an update, from wherever it stands."""
    digest = receive(world.store, world.blobs, envelope, world.own, NOW).digest
    world.upload(digest)
    waiting = ("received", "verified", "checked")
    while (stands := advance(world.store, world.blobs, digest, passing, world.own, NOW)) in waiting:
        pass
    way: list[State] = ["accepted", "aggregated", "gated", "released", "announced"]
    for state in way[way.index(stands) + 1 :]:
        with world.store.transaction() as session:
            mark(session, digest, state, NOW, release="7" * 64 if state == "released" else None)


def kill_at(point: int) -> None:
    """Kill this process at its n-th statement, beginning, commit or change of a file name."""
    left = point

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for moment in ("begin", "before_cursor_execute", "commit"):
        event.listen(Engine, moment, count)

    def audit(name: str, arguments: Any) -> None:
        if name in ("os.rename", "os.remove", "os.truncate", "os.mkdir"):
            count()

    sys.addaudithook(audit)


if __name__ == "__main__":
    opened = open_world(sys.argv[1], Path(sys.argv[2]))
    kill_at(int(sys.argv[3]))
    live(opened, (Path(sys.argv[2]) / "update.json").read_bytes())

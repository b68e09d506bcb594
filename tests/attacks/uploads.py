"""Attacks in how the files of an update are sent, and in what becomes of them on the parent's disk."""

from __future__ import annotations

import hashlib

from registry.errors import BadData
from sync.inbox import append_file, receipt_of
from tests.attacks.adapters import (
    declared,
    honest,
    written,
)
from tests.attacks.scene import DAY, HONEST, Attack, Scene


def other_bytes(scene: Scene) -> str:
    """The digest is that of another file: nothing is kept, and the sender may send it again."""
    digest = scene.offer(scene.sealed(adapter=declared(scene.fresh)))
    lie = bytes(len(scene.fresh))
    try:
        scene.upload(digest, lie, hashlib.sha256(scene.fresh).hexdigest())
    finally:
        assert not scene.leftovers()
        scene.upload(digest, scene.fresh)
        assert scene.decided(digest).startswith("accepted")
    return "taken"


def more_bytes(scene: Scene) -> str:
    """More than was declared."""
    digest = scene.offer(scene.sealed(adapter=declared(scene.fresh)))
    sha256 = hashlib.sha256(scene.fresh).hexdigest()
    try:
        append_file(scene.node.store, scene.node.blobs, digest, sha256, offset=0, data=scene.fresh + b"x")
    finally:
        assert scene.node.blobs.partial_size(sha256) == 0
        scene.upload(digest, scene.fresh)
    return "taken"


def fewer_bytes(scene: Scene) -> str:
    """Fewer than was declared: it is waited for, but not for ever, and then nothing is kept."""
    digest = scene.offer(scene.sealed(adapter=declared(scene.fresh, size=len(scene.fresh) + 1)))
    store, blobs = scene.node.store, scene.node.blobs
    append_file(store, blobs, digest, hashlib.sha256(scene.fresh).hexdigest(), offset=0, data=scene.fresh)
    assert scene.decided(digest) == "received: no verdict"
    return scene.decided(digest, scene.now + 3 * DAY)


def smaller_than_it_is(scene: Scene) -> str:
    """A file that the parent has, declared smaller."""
    assert scene.send(scene.sealed(), HONEST).startswith("accepted")
    return scene.send(scene.sealed(sequence=2, adapter=declared(HONEST, size=10)))


def a_gap(scene: Scene) -> str:
    """The end of a file without its beginning: a sparse file would cost nothing to send."""
    digest = scene.offer(scene.sealed(adapter=declared(scene.fresh, size=60 << 20)))
    sha256 = hashlib.sha256(scene.fresh).hexdigest()
    return str(append_file(scene.node.store, scene.node.blobs, digest, sha256, offset=50 << 20, data=b"x"))


def never_finished(scene: Scene) -> str:
    """Every file but its last byte, again and again: what is given up leaves the disk."""
    for sequence in range(1, 9):
        data = bytes(4096) + sequence.to_bytes(4, "little")
        digest = scene.offer(scene.sealed(sequence=sequence, adapter=declared(data)))
        sha256 = hashlib.sha256(data).hexdigest()
        append_file(scene.node.store, scene.node.blobs, digest, sha256, offset=0, data=data[:-1])
        assert scene.node.blobs.partial_size(sha256) == len(data) - 1
        said = scene.decided(digest, scene.now + 3 * DAY)
        assert scene.node.blobs.partial_size(sha256) == 0
    return said


def of_another_update(scene: Scene) -> str:
    """A file that the update does not declare."""
    digest = scene.offer(scene.sealed())
    return str(append_file(scene.node.store, scene.node.blobs, digest, "9" * 64, offset=0, data=b"x"))


def for_a_rejected_update(scene: Scene) -> str:
    digest = scene.offer(scene.sealed(audience="9" * 64, adapter=declared(scene.fresh)))
    sha256 = hashlib.sha256(scene.fresh).hexdigest()
    try:
        return str(append_file(scene.node.store, scene.node.blobs, digest, sha256, offset=0, data=b"x"))
    finally:
        assert scene.node.blobs.partial_size(sha256) == 0


def a_name_that_climbs(scene: Scene) -> str:
    """A digest that is a way out of the folder."""
    digest = scene.offer(scene.sealed())
    return str(append_file(scene.node.store, scene.node.blobs, digest, "../../keys/node.pem", offset=0, data=b"x"))


def link_in_the_way(scene: Scene) -> str:
    """A symbolic link stands where the file would grow: what it points to stays as it is."""
    digest, secret = scene.offer(scene.sealed()), scene.node.home.key_file
    before = secret.read_bytes()
    data = written(honest(seed=99))
    digest = scene.offer(scene.sealed(sequence=2, adapter=declared(data)))
    link = scene.node.home.partial / hashlib.sha256(data).hexdigest()
    link.symlink_to(secret)
    try:
        scene.upload(digest, data)
    finally:
        assert secret.read_bytes() == before
        link.unlink()
    return "written"


def link_among_blobs(scene: Scene) -> str:
    """A symbolic link stands where the whole file would be read."""
    data = written(honest(seed=98))
    digest = scene.offer(scene.sealed(adapter=declared(data)))
    blob = scene.node.blobs.path(hashlib.sha256(data).hexdigest())
    blob.parent.mkdir(exist_ok=True)
    outside = scene.folder / "outside"
    outside.write_bytes(data)
    blob.symlink_to(outside)
    try:
        return scene.decided(digest)
    finally:
        blob.unlink()


def changed_afterwards(scene: Scene) -> str:
    """The file changes on the disk after it came: it is asked for again."""
    data = written(honest(seed=97))
    digest = scene.offer(scene.sealed(adapter=declared(data)))
    scene.upload(digest, data)
    blob = scene.node.blobs.path(hashlib.sha256(data).hexdigest())
    blob.write_bytes(bytes(len(data)))
    said = scene.decided(digest)
    assert [file.sha256 for file in receipt_of(scene.node.store, scene.node.blobs, digest).missing]
    blob.with_name(blob.name + ".damaged").unlink()
    if not said.startswith("received"):
        raise AssertionError(said)
    raise BadData("asked for again")


UPLOADS = (
    Attack("sent: other bytes than signed", "T5", other_bytes, "BadData: the bytes received are not those of"),
    Attack("sent: more than declared", "T2", more_bytes, "BadData: .*the limit is"),
    Attack("sent: fewer than declared", "U11", fewer_bytes, "rejected: files.received: .*did not come within 2 days"),
    Attack(
        "sent: declared smaller than it is", "C14", smaller_than_it_is, "rejected: files.received: .*10 were declared"
    ),
    Attack("sent: the end without the beginning", "T4", a_gap, "BadData: 0 bytes of .* are here"),
    Attack("sent: never the last byte", "U12", never_finished, "rejected: files.received"),
    Attack("sent: a file of no update", "T2", of_another_update, "BadData: .*has no file"),
    Attack("sent: the file of a rejected update", "U7", for_a_rejected_update, "BadData: .*was rejected"),
    Attack("sent: under a name that climbs", "T1", a_name_that_climbs, "BadData: .*has no file"),
    Attack("sent: through a symbolic link", "T1", link_in_the_way, "LocalFailure: cannot receive a file"),
    Attack("read: through a symbolic link", "T1", link_among_blobs, "LocalFailure: cannot read blob"),
    Attack("read: changed on the disk", "V5", changed_afterwards, "BadData: asked for again"),
)

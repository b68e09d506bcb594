"""Offer an update to a peer: the envelope, then the files that the peer lacks, each from where an earlier try ended.

Everything may be repeated: the peer knows an update by the digest of its envelope and a file by its own, so that the
same call after a kill or a broken line sends the rest and gets the same answer. What the update says, and that it may
leave this machine, is decided before (`node.publish`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from registry.blobs import BlobStore
from registry.documents import File
from registry.envelope import MAX_ENVELOPE_BYTES, MEDIA_TYPE
from registry.errors import BadData, LocalFailure
from registry.fields import Digest, Part
from sync.fetch import OnProgress, Progress, no_progress
from sync.transport import Peer, Refused

CHUNK_BYTES: Final = 1 << 20
ANSWER_BYTES: Final = 2 * MAX_ENVELOPE_BYTES
FRUITLESS_TRIES: Final = 3
CONFLICT: Final = 409

State = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
Missing = Annotated[tuple[Digest, ...], Field(max_length=100)]


class Receipt(Part):
    """The peer's answer to an envelope: what it calls the update, how far it is, and which files it lacks."""

    digest: Digest
    state: State
    missing: Missing


class Standing(Part):
    """Where an update stands at the peer; `verdict` is the text of the signed envelope, still to be verified."""

    state: State
    verdict: Annotated[str, StringConstraints(max_length=MAX_ENVELOPE_BYTES)] | None
    missing: Missing


AnyAnswer = TypeVar("AnyAnswer", bound=Part)


def submit(
    peer: Peer, envelope: bytes, files: Sequence[File], blobs: BlobStore, on_progress: OnProgress = no_progress
) -> Standing:
    """Send an update with those of its files that the peer lacks; where it stands afterwards.

    Raises Refused with the peer's reason, BadData on a nonsensical answer, LocalFailure when the peer cannot be
    reached or is slow; the same call then goes on where this one ended.
    """
    digest = hashlib.sha256(envelope).hexdigest()
    answer = peer.transport.post(
        f"{peer.url}/v1/updates", envelope, MEDIA_TYPE, max_bytes=ANSWER_BYTES, timeout_s=peer.limits.answer_s
    )
    receipt = _parse(Receipt, answer, peer)
    if receipt.digest != digest:
        raise BadData(f"{peer.url} took the update for another one: {receipt.digest}", "tell the operator of the peer")
    declared = {file.sha256: file for file in files}
    if undeclared := set(receipt.missing) - declared.keys():
        raise BadData(
            f"{peer.url} asks for a file that is not part of the update: {min(undeclared)}", "nothing was sent"
        )
    wanted = [declared[sha256] for sha256 in dict.fromkeys(receipt.missing)]
    total, done = sum(file.size for file in wanted), 0
    for file in wanted:
        for here in _upload(peer, digest, file, blobs):
            on_progress(Progress(file.name, done + here, total))
        done += file.size
    return standing(peer, digest)


def standing(peer: Peer, digest: str) -> Standing:
    """Ask where an update stands. Raises Refused (404) when the peer does not know it."""
    return _parse(Standing, peer.get(f"/v1/updates/{digest}", ANSWER_BYTES), peer)


def _upload(peer: Peer, digest: str, file: File, blobs: BlobStore) -> Iterator[int]:
    """Send what the peer lacks of one file (T8); yields how much of it is there.

    At least one request is sent: an empty one makes a peer that was stopped after the last byte finish the file.
    """
    url = f"{peer.url}/v1/updates/{digest}/files/{file.sha256}"
    seconds = peer.limits.answer_s
    there = peer.transport.offset(url, timeout_s=seconds)
    fruitless = 0
    with blobs.open_verified(file.sha256).open("rb") as source:
        while fruitless < FRUITLESS_TRIES:
            here = min(there, file.size)
            source.seek(here)
            try:
                there = peer.transport.put_range(url, here, source.read(CHUNK_BYTES), timeout_s=seconds)
            except Refused as refusal:
                if refusal.status != CONFLICT:
                    raise
                there = peer.transport.offset(url, timeout_s=seconds)
            yield min(there, file.size)
            if there >= file.size:
                return
            fruitless = 0 if there > here else fruitless + 1
    raise LocalFailure(f"{peer.url} takes no more bytes of {file.name} after {there:,}", "try again later")


def _parse(model: type[AnyAnswer], answer: bytes, peer: Peer) -> AnyAnswer:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise BadData(
            f"{peer.url} answered with something that is not a {model.__name__.lower()} of an update",
            "is this the address of a node?",
        ) from error

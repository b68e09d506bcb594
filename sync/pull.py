"""Fetch releases from a peer: verify every signature and every digest, and only then make them visible, all at once.

A kill at any byte leaves partial files that the next call continues, and blobs that nothing refers to; the database
changes in one transaction at the end. The head of a path never gives way to an older release (rollback), nor to
another of the same version. Which keys are trusted is the caller's rule; when to pull, the daemon's.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

from pydantic import Field, TypeAdapter, ValidationError

from registry.blobs import BlobStore
from registry.documents import BaseManifest, Enrolment, File, Release, ReleasePin, open_document
from registry.envelope import MAX_ENVELOPE_BYTES, peek_signer
from registry.errors import BadData
from registry.fields import Digest
from registry.keys import KEY_BYTES, KeyId, PublicKey
from registry.paths import NodePath, Ref
from registry.store import Session, Store, select
from registry.tables import HeadRow, ReleaseRow
from sync.chain import Link, check_pin, release_files, release_row
from sync.fetch import OnProgress, check_space, fetch_files, fetch_small, no_progress
from sync.transport import Peer

log = logging.getLogger(__name__)

AnyPin = TypeVar("AnyPin", bound=ReleasePin)
TrustedKeys = Callable[[NodePath], list[PublicKey]]
# Looks at a fetched chain, as long as that takes; what it gives writes the verdict down and says if that admits it.
Judge = Callable[[list[Link]], Callable[[Session], bool]]

LIST_BYTES: Final = 4 << 20
MAX_LISTED: Final = 20_000


class TwoReleases(BadData):
    """A key signed two different releases of one path and version."""


class SignedPin(ReleasePin):
    """A release and who is said to have signed it."""

    signer: Digest


_PINS = TypeAdapter(Annotated[list[ReleasePin], Field(max_length=MAX_LISTED)])
_SIGNED_PINS = TypeAdapter(Annotated[list[SignedPin], Field(max_length=MAX_LISTED)])


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one pull gets things from, and what proves them."""

    peer: Peer
    trusted: TrustedKeys
    store: Store
    blobs: BlobStore
    now: datetime
    vouched: frozenset[str]


def poll(peer: Peer) -> list[ReleasePin]:
    """The heads that a peer says it serves. Nothing of it is proven: `fetch_release` proves one."""
    return _listed(_PINS, peer, "/v1/heads")


def find_version(peer: Peer, ref: Ref) -> list[SignedPin]:
    """The releases that a peer says it has of a path (and version), newest first; nothing of it is proven."""
    version = "" if ref.version is None else f"&version={ref.version}"
    return _listed(_SIGNED_PINS, peer, f"/v1/releases?path={quote(str(ref.path), safe='')}{version}")


def _listed(model: TypeAdapter[list[AnyPin]], peer: Peer, path: str) -> list[AnyPin]:
    answer = peer.get(path, LIST_BYTES)
    try:
        return model.validate_json(answer)
    except ValidationError as error:
        raise BadData(
            f"{peer.url}{path} did not answer with a list of releases", "is this the address of a node?"
        ) from error


def fetch_release(
    peer: Peer,
    pin: ReleasePin,
    *,
    trusted: TrustedKeys,
    store: Store,
    blobs: BlobStore,
    now: datetime,
    vouched: frozenset[str] = frozenset(),
    as_head: bool = True,
    on_progress: OnProgress = no_progress,
    judge: Judge | None = None,
) -> Release:
    """Fetch one release with the releases above it, its base and all their files (R9); returns it when all is here.

    `vouched`: digests of releases that the repository of a trusted node lists, for the places that it may speak for.
    `as_head`: make it what this node serves at its path; then it may be neither expired nor older than the head of
    now. Without it (a version that was asked for by number) any version that a trusted key signed is taken. `judge`
    is asked when all is here; what it does not admit stays invisible, its verdict aside. Without one the files alone
    are checked.

    Raises BadData when anything of it is not what was signed, LocalFailure when the peer does not answer in time or
    there is no room; nothing is then visible, and the same call goes on where this one ended.
    """
    if as_head:
        with store.read() as session:
            _refuse_rollback(session, pin)
    chain = _fetch_chain(_Source(peer, trusted, store, blobs, now, vouched), pin)
    _check_life(chain[-1].release, now, peer.limits.clock_skew_s, must_be_fresh=as_head)
    manifest = BaseManifest.from_bytes(fetch_small(peer, chain[-1].release.base, MAX_ENVELOPE_BYTES, blobs))
    files: list[File] = [*manifest.files, *(file for link in chain for file in release_files(link.release))]
    check_space(files, blobs, shutil.disk_usage(blobs.path(pin.digest).parents[1]).free, peer.limits.max_file_bytes)
    fetch_files(peer, files, blobs, on_progress)
    for link in chain:
        blobs.put_bytes(link.signer.raw)
    settle = (judge or _sound(manifest, blobs))(chain)
    with store.transaction() as session:
        if as_head:
            _refuse_rollback(session, pin)
        if not settle(session):
            return chain[-1].release
        _make_visible(session, chain)
        if as_head:
            _set_head(session, pin, now)
    return chain[-1].release


def _sound(manifest: BaseManifest, blobs: BlobStore) -> Judge:
    """Nothing is visible that its files do not bear out (R15); what checks them is imported where there are some."""
    from sync.checks.fetched import check_fetched

    def judge(chain: list[Link]) -> Callable[[Session], bool]:
        check_fetched(chain, manifest, blobs)
        return lambda session: True

    return judge


def _fetch_chain(source: _Source, pin: ReleasePin) -> list[Link]:
    """The verified release and those that it pins above it, the top of the tree first (R7, R8).

    The release itself is proven by a key that is trusted for its path, or is vouched for. Each one above is proven by
    its digest, which the release below pins, and by its signature: the envelope names the key by the key's digest.
    """
    envelope = _envelope(source, pin)
    signer, path = peek_signer(envelope), NodePath.parse(pin.path)
    trusted = [key for key in source.trusted(path) if key.id == signer]
    if pin.digest in source.vouched:
        trusted = [_named_key(source, signer)]
    links = [_link(envelope, pin, trusted[0] if trusted else _enrolled_key(source, signer, path))]
    check_pin(links[0].release, pin)
    while (above := links[-1].release.above) is not None:  # ends: every one lies higher in the tree than the last
        envelope = _envelope(source, above)
        links.append(_link(envelope, above, _named_key(source, peek_signer(envelope))))
        check_pin(links[-1].release, above, below=links[-2].release)
    return links[::-1]


def _envelope(source: _Source, pin: ReleasePin) -> bytes:
    with source.store.read() as session:
        row = session.get(ReleaseRow, pin.digest)
    return row.envelope if row is not None else source.peer.get(f"/v1/releases/{pin.digest}", MAX_ENVELOPE_BYTES)


def _named_key(source: _Source, signer: KeyId) -> PublicKey:
    return PublicKey(fetch_small(source.peer, signer, KEY_BYTES, source.blobs))


def _link(envelope: bytes, pin: ReleasePin, key: PublicKey) -> Link:
    release, opened = open_document(envelope, Release, [key])
    if opened.digest != pin.digest:
        raise BadData(
            f"the peer answered with release {opened.digest} when asked for {pin.digest} ({pin.path}@v{pin.version})",
            "tell the operator of the peer",
        )
    return Link(release, opened.digest, key, envelope)


def _enrolled_key(source: _Source, signer: KeyId, path: NodePath) -> PublicKey:
    """The key of a signer whom a trusted key has enrolled for a path, by the enrolment that the peer shows."""
    stranger = BadData(
        f"the release of {path} is signed by key {signer}, which is not trusted for that path",
        "node enrol: trust the parent of that path first",
    )
    try:
        answer = source.peer.get(f"/v1/enrolments/{signer}?path={quote(str(path), safe='')}", MAX_ENVELOPE_BYTES)
        enrolment, _ = open_document(answer, Enrolment, source.trusted(path))
    except BadData as error:
        raise stranger from error
    key = PublicKey.from_hex(enrolment.key)
    latest = source.now + timedelta(seconds=source.peer.limits.clock_skew_s)
    in_time = enrolment.created <= latest and source.now < enrolment.expires
    if key.id != signer or not path.is_within(NodePath.parse(enrolment.path)) or not in_time:
        raise stranger
    return key


def _check_life(release: Release, now: datetime, clock_skew_s: float, *, must_be_fresh: bool) -> None:
    """Not from the future and, where it is to be served, not expired (R10, R11)."""
    ahead_s = (release.created - now).total_seconds()
    name = f"{release.path}@v{release.version}"
    if ahead_s > clock_skew_s:
        raise BadData(
            f"{name} was made {ahead_s / 3600:.1f} hours from now: this machine's clock says {now:%Y-%m-%d %H:%M} UTC",
            "set the clock of this machine; if it is right, tell the operator of the peer",
        )
    if must_be_fresh and release.expires <= now:
        raise BadData(
            f"{name} expired on {release.expires:%Y-%m-%d %H:%M} UTC; this machine's clock says {now:%Y-%m-%d %H:%M}",
            f"if the clock is right, ask for it by version: node clone {name}",
        )


def _refuse_rollback(session: Session, pin: ReleasePin) -> None:
    """A head gives way to a later version alone (R12, G7)."""
    served = select(ReleaseRow.digest, ReleaseRow.version).join(HeadRow, HeadRow.release == ReleaseRow.digest)
    current = session.execute(served.where(HeadRow.path == pin.path)).first()
    if current is None or current.digest == pin.digest or current.version < pin.version:
        return
    if current.version == pin.version:
        raise BadData(
            f"there are two different releases {pin.path}@v{pin.version}; the first one stays",
            "tell the operator of the peer: a version is given once",
        )
    raise BadData(
        f"the peer offers {pin.path}@v{pin.version}, older than v{current.version}, which is here: rollback refused",
        f"to have the older one, ask for it: node clone {pin.path}@v{pin.version}",
    )


def _make_visible(session: Session, chain: list[Link]) -> None:
    """Store the releases that are not here yet; none of them may have a twin."""
    wanted = select(ReleaseRow.digest).where(ReleaseRow.digest.in_([link.digest for link in chain]))
    here = set(session.scalars(wanted))
    for link in chain:
        if link.digest not in here:
            _refuse_twin(session, link)
            session.add(release_row(link, own=False))
    session.flush()


def _refuse_twin(session: Session, link: Link) -> None:
    """A second release of a key, path and version is refused and told as an error, with what proves it (R2)."""
    release, signer = link.release, link.signer
    same = (ReleaseRow.path == release.path, ReleaseRow.version == release.version, ReleaseRow.signer == signer.id)
    first = session.scalar(select(ReleaseRow.digest).where(*same))
    if first is None:
        return
    name = f"{release.path}@v{release.version}"
    log.error(
        "TWO RELEASES: key %s (fingerprint %s) signed %s twice: %s, which is here, and %s",
        signer.id,
        signer.fingerprint,
        name,
        first,
        link.digest,
    )
    raise TwoReleases(
        f"key {signer.id} signed two different releases {name}; the first one stays: {first}, not {link.digest}",
        "tell the operator of the peer: a version is given once",
    )


def _set_head(session: Session, pin: ReleasePin, now: datetime) -> None:
    head = session.get(HeadRow, pin.path)
    if head is None:
        session.add(HeadRow(path=pin.path, release=pin.digest, changed=now))
    elif head.release != pin.digest:
        head.release, head.changed = pin.digest, now

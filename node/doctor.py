"""Is this node well? Each examination gives findings with their remedy; nothing is changed, no fault ends it.

The doctor works on settings, not on an opened node, so that it can speak when the node cannot be opened. What a
database or a blob store finds wrong with itself is left to their own integrity checks.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from node.machine import Finding, examine_disk, examine_libraries, examine_memory, examine_processor
from node.own_log import check_promise, problems_of_log
from node.parent_probe import Answer, probe
from node.settings import Settings
from registry.blobs import BlobStore
from registry.errors import BanyanError
from registry.keys import PrivateKey
from registry.store import Store, file_url, select
from registry.tables import HeadRow, PeerRow, ReleaseRow
from registry.trust.repository import newest_root
from sync.address import read_networks
from sync.seen_logs import late, splits

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)  # no clock that is right shows an earlier time


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined, and the outside world as arguments."""

    settings: Settings
    passphrase: str | None
    deep: bool
    now: Callable[[], datetime]
    ask: Callable[[str, float], Answer]


def examine(
    settings: Settings,
    *,
    passphrase: str | None = None,
    deep: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ask: Callable[[str, float], Answer] | None = None,
) -> list[Finding]:
    """Examine a node. `deep` also hashes every blob; `ask(url, timeout_s)` calls the parent, by default `probe`."""
    call = ask or partial(probe, networks=read_networks(settings.peer_networks))
    patient = Patient(settings, passphrase, deep, now, call)
    return [finding for examination in EXAMINATIONS for finding in _guarded(examination, patient)]


def _guarded(examination: Callable[[Patient], Iterable[Finding]], patient: Patient) -> list[Finding]:
    name = examination.__name__.removeprefix("_")
    try:
        return list(examination(patient))
    except BanyanError as error:
        return [Finding(name, "failed", error.message, error.hint)]
    except OSError as error:
        return [
            Finding(name, "failed", f"{error.filename or name}: {error.strerror or error}", "see its owner and mode")
        ]


def _home(patient: Patient) -> Iterator[Finding]:
    root = patient.settings.home
    if not root.is_dir():
        yield Finding("home", "failed", f"there is no folder {root}", "node init")
        return
    status = root.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        yield Finding("home", "failed", f"{root} belongs to user {status.st_uid}", f"chown -R $(id -u) {root}")
    elif stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("home", "failed", f"others may open {root}", f"chmod 700 {root}")
    elif not os.access(root, os.W_OK | os.X_OK):
        yield Finding("home", "failed", f"{root} cannot be written", f"chmod u+rwx {root}")
    else:
        yield Finding("home", "ok", str(root))


def _key(patient: Patient) -> Iterator[Finding]:
    key = PrivateKey.load(patient.settings.place.key_file, patient.passphrase)
    yield Finding("key", "ok", f"fingerprint {key.public.fingerprint}")


def _root(patient: Patient) -> Iterator[Finding]:
    """Whether the root of this node's repository will be signed anew in time (F6)."""
    root = newest_root(patient.settings.place.repository)
    if root is None:
        yield Finding("root", "ok", "nothing was published yet")
        return
    left = root.expires - patient.now()
    if left > timedelta(days=patient.settings.root_valid_days) / 4:
        yield Finding("root", "ok", f"v{root.version}, expires on {root.expires:%Y-%m-%d}")
    else:
        detail = f"the root expires on {root.expires:%Y-%m-%d}; after that no child follows this node"
        remedy = "stop the daemon, then: node keys rotate timestamp --root-key FILE"
        yield Finding("root", "warning" if left > timedelta() else "failed", detail, remedy)


def _database(patient: Patient) -> Iterator[Finding]:
    if not patient.settings.database_url and not patient.settings.place.database.exists():
        yield Finding("database", "failed", f"there is no database {patient.settings.place.database}", "node init")
        return
    store = _open(patient.settings)
    try:
        problems = store.check_integrity()
    finally:
        store.close()
    for problem in problems:
        yield Finding("database", "failed", problem, "restore the home folder from a backup, or: node pull")
    if not problems:
        yield Finding("database", "ok", "sound")


def _open(settings: Settings) -> Store:
    return Store.open(settings.database_url or file_url(settings.place.database))


def _log(patient: Patient) -> Iterator[Finding]:
    """Our own log, hashed again when the examination is deep; and what was seen of the parent's."""
    settings = patient.settings
    if not settings.database_url and not settings.place.database.exists():
        return
    store = _open(settings)
    try:
        with store.read() as session:
            check_promise(session, settings.place.log_checkpoint)
        problems = problems_of_log(store, settings.place.log_checkpoint) if patient.deep else []
        contradictions, waiting = splits(store), late(store, patient.now())
    finally:
        store.close()
    for problem in problems:
        yield Finding("log", "failed", problem, "restore the database from a backup")
    for split in contradictions:
        detail = f"key {split.key_id} signed two logs that contradict each other; seen by {split.sources}"
        yield Finding("log", "failed", detail, "node log verify shows both; ask its operator, and tell the others")
    for row in waiting:
        detail = f"the checkpoint of {row.size} leaves that {row.source} showed could not be compared since {row.seen}"
        yield Finding("log", "warning", detail, "node log verify --peer parent")
    if not problems and not contradictions:
        yield Finding("log", "ok", "hashed again" if patient.deep else "no split seen; node log verify hashes it again")


def _blobs(patient: Patient) -> Iterator[Finding]:
    place = patient.settings.place
    if not place.blobs.is_dir():
        yield Finding("blobs", "failed", f"there is no folder {place.blobs}", "node init")
        return
    blobs = BlobStore(place.blobs, place.partial)
    problems = blobs.check_integrity() if patient.deep else []
    problems += [f"{path} needs {digest}, which is missing" for path, digest in _missing(patient.settings, blobs)]
    for problem in problems:
        yield Finding("blobs", "failed", problem, "node pull, or import the model again")
    if not problems:
        depth = "all hashed" if patient.deep else "all there; node doctor --deep hashes them"
        yield Finding("blobs", "ok", depth)


def _missing(settings: Settings, blobs: BlobStore) -> list[tuple[str, str]]:
    """(path, digest) of what the served releases name and the store lacks."""
    if not settings.database_url and not settings.place.database.exists():
        return []
    store = _open(settings)
    try:
        with store.read() as session:
            rows = list(session.scalars(select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest)))
    finally:
        store.close()
    named = [(row.path, digest) for row in rows for digest in (row.base, row.adapter) if digest]
    return [(path, digest) for path, digest in named if not blobs.has(digest)]


def _clock(patient: Patient) -> Iterator[Finding]:
    now = patient.now()
    if now < WRITTEN:
        yield Finding(
            "clock", "failed", f"the clock shows {now:%Y-%m-%d %H:%M} UTC", "set it: timedatectl set-ntp true"
        )
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _parent(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if not settings.parent_url:
        yield Finding("parent", "ok", "none set; this node is a root of its own")
        return
    answer = patient.ask(settings.parent_url, min(settings.request_timeout_s, 10.0))
    apart = abs(patient.now() - answer.date) if answer.date else timedelta()
    if apart > timedelta(seconds=settings.clock_skew_s):
        detail = f"our clock and the parent's are {apart.total_seconds():.0f} s apart"
        yield Finding("clock", "failed", detail, "set this machine's clock: timedatectl set-ntp true")
    pinned = settings.parent_key or _pinned_parent(settings)
    if pinned and answer.key != pinned:
        detail = f"{settings.parent_url} answers with another key than the one that this node trusts"
        yield Finding(
            "parent", "failed", detail, "ask its operator; if the change is right: node config set parent_key KEY"
        )
    else:
        yield Finding("parent", "ok", f"{answer.name} answers at {settings.parent_url}")


def _pinned_parent(settings: Settings) -> str:
    """The public key of the parent that this node was enrolled with, if any."""
    if not settings.database_url and not settings.place.database.exists():
        return ""
    store = _open(settings)
    try:
        with store.read() as session:
            row = session.scalars(select(PeerRow).where(PeerRow.role == "parent", PeerRow.url == settings.parent_url))
            found = row.first()
    finally:
        store.close()
    return found.public_key if found else ""


def _daemon(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if _is_locked(settings.place.daemon_lock):
        yield Finding("daemon", "ok", "running")
    elif settings.port and not _is_free(settings.host, settings.port):
        detail = f"no daemon runs here, and another program holds {settings.host}:{settings.port}"
        yield Finding("daemon", "failed", detail, "node config set port 0, or another free port")
    else:
        yield Finding("daemon", "ok", "not running; start it with: node up")


def _is_locked(file: Path) -> bool:
    if not file.exists():
        return False
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((host, port))
        except OSError:
            return False
    return True


def _machine(patient: Patient) -> Iterator[Finding]:
    yield examine_disk(patient.settings.home)
    yield examine_memory()
    yield examine_processor()
    yield from examine_libraries()


EXAMINATIONS = (_home, _key, _root, _database, _log, _blobs, _machine, _clock, _parent, _daemon)

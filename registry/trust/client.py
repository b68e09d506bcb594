"""Following a node's repository: python-tuf's client, with a clock and a disk of ours.

The caller holds the lock of the folder (`registry.trust.files.locked`). The root that the folder began with lies in it
as `bootstrap.json`, and everything else that is kept is verified from it each time: a damaged file is fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from registry.errors import BadData, LocalFailure
from registry.keys import PublicKey
from registry.trust.files import NO_ROOM, write_whole
from registry.trust.repository import vouched_by
from registry.trust.roles import check_root, keys_of

BOOTSTRAP: Final = "bootstrap.json"
LIMITS: Final = UpdaterConfig()  # F8: its defaults, which are the specification's
MAX_METADATA_BYTES: Final = LIMITS.targets_max_length  # of one file, whatever its signed length says


class Client(Updater):
    """python-tuf's client with a given time, files written through to the disk, and a say about roots (F3, F7)."""

    def __init__(
        self,
        folder: Path,
        url: str,
        fetcher: FetcherInterface,
        *,
        now: datetime,
        accept_root: Callable[[Root], None] = check_root,
        target_dir: Path | None = None,
        target_url: str | None = None,
    ) -> None:
        self._accept_root = accept_root
        super().__init__(
            str(folder),
            url,
            str(target_dir) if target_dir else None,
            target_url,
            fetcher,
            LIMITS,
            bootstrap=(folder / BOOTSTRAP).read_bytes(),
        )
        self._trusted_set.reference_time = now

    @property
    def root(self) -> Root:
        """The newest trusted root."""
        return self._trusted_set.root

    @property
    def targets(self) -> Mapping[str, TargetFile]:
        """What the top-level targets list, after a refresh; other nodes' delegations are not followed (F9)."""
        return self._trusted_set.targets.targets

    def _download_metadata(self, rolename: str, length: int, version: int | None = None) -> bytes:
        """A root that breaks our rules is neither followed nor kept, whoever has signed it."""
        data = super()._download_metadata(rolename, length, version)
        if rolename == Root.type and isinstance(root := Metadata[Root].from_bytes(data).signed, Root):
            self._accept_root(root)
        return data

    def _persist_file(self, filename: str, data: bytes) -> None:
        """Python-tuf's own renames without waiting for the disk."""
        write_whole(Path(filename), data)


def begin(folder: Path, url: str, fetcher: FetcherInterface, pinned: PublicKey) -> None:
    """Take the root that a folder starts from, if it has none yet (F5); the caller holds the folder's lock.

    It is the newest that the pinned key vouches for: of a node that has changed its key since, one from before that.
    Raises BadData where there is none, or it is not signed as it asks for itself or breaks our rules.
    """
    if (folder / BOOTSTRAP).exists():
        return
    name = "root.json"
    for _ in range(LIMITS.max_root_rotations):
        data = fetcher.download_bytes(f"{url}/{name}", LIMITS.root_max_length)
        root = Metadata[Root].from_bytes(data)
        if not isinstance(root.signed, Root):
            raise BadData(f"{url}/{name} is not a root", "tell the operator of the node")
        check_root(root.signed)
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
        if vouched_by(root, pinned):
            write_whole(folder / BOOTSTRAP, data)
            return
        if root.signed.version == 1:
            break
        name = f"{root.signed.version - 1}.root.json"
    raise BadData(
        f"no root at {url} is signed by the pinned key {pinned.fingerprint}",
        "ask the operator of the node what happened",
    )


def release_keys(root: Root) -> list[PublicKey]:
    """The keys that speak for a node (F4)."""
    return keys_of(root, "targets")


@contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """python-tuf's errors in our two families; those of the transport pass as they are."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise BadData(
            f"{what}: {error}: what is offered is too old to be believed",
            "compare this machine's clock; if it is right, the node was not running, or somebody keeps news away",
        ) from error
    except BadVersionNumberError as error:
        raise BadData(
            f"{what}: a version that is older than what was seen before, or does not fit: {error}",
            "tell the operator of the node: rollback refused",
        ) from error
    except RepositoryError as error:
        raise BadData(f"{what}: {error}", "tell the operator of the node") from error
    except DownloadHTTPError as error:
        raise BadData(
            f"{what}: the node does not serve it ({error.status_code})", "it may run an older version: upgrade it"
        ) from error
    except DownloadError as error:
        raise BadData(f"{what}: {error}", "tell the operator of the node") from error
    except (ValueError, KeyError, TypeError) as error:  # what python-tuf lets through of nonsense that is well signed
        raise BadData(f"{what} makes no sense: {error!a:.200}", "tell the operator of the node") from error
    except OSError as error:
        raise LocalFailure(f"{what} cannot be kept: {error.strerror or error}", NO_ROOM) from error

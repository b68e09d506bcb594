"""Our TUF client as a command, as the external tuf-conformance suite drives clients: `init`, `refresh`, `download`.

    python -m tests.tuf_client --metadata-dir DIR init TRUSTED_ROOT
    python -m tests.tuf_client --metadata-dir DIR --metadata-url URL refresh
    python -m tests.tuf_client --metadata-dir DIR --metadata-url URL --target-name NAME --target-base-url URL \
        --target-dir DIR download

It ends with 0 if everything held and with 1 if not. It is the client that nodes follow their parents with, over the
same transport, except that roots may have keys of other kinds than ours and that delegations are followed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from registry.errors import BanyanError
from registry.trust.client import BOOTSTRAP, Client, in_our_words
from registry.trust.files import locked, write_whole
from sync.transport import HttpTransport, Peer
from sync.tuf_fetcher import PeerFetcher


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tuf_client")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args(words)


def init(said: argparse.Namespace) -> None:
    """Keep the root that everything else is verified from."""
    data = said.trusted_root.read_bytes()
    write_whole(said.metadata_dir / BOOTSTRAP, data)
    write_whole(said.metadata_dir / "root.json", data)


def follow(said: argparse.Namespace) -> bool:
    """Refresh the metadata and, if a target is named, download it unless it is here; whether there is such a target."""
    client = Client(
        said.metadata_dir,
        said.metadata_url,
        PeerFetcher(Peer(HttpTransport(allow_private=True), said.metadata_url)),
        now=datetime.now(UTC),
        accept_root=lambda root: None,
        target_dir=said.target_dir,
        target_url=said.target_base_url,
    )
    client.refresh()
    if said.command == "refresh":
        return True
    target = client.get_targetinfo(said.target_name)
    if target is not None and client.find_cached_target(target) is None:
        client.download_target(target)
    return target is not None


def main(words: list[str] | None = None) -> int:
    said = arguments(words)
    try:
        with locked(said.metadata_dir), in_our_words(said.metadata_url or "the root"):
            if said.command == "init":
                init(said)
                return 0
            return 0 if follow(said) else 1
    except BanyanError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
